// SPDX-License-Identifier: Apache-2.0
#include "launch/restored_model.h"

#include "launch/build.h"
#include "launch/checkpoint_keeper.h"
#include "launch/config/stage_config.h"
#include "launch/finetune.h"
#include "launch/training_state.h"

namespace plinth::launch {

std::shared_ptr<const core::data::Tokenizer> checkpoint_tokenizer(
    const checkpoints::Checkpoint& checkpoint, int64_t vocab_size) {
    REQUIRE(checkpoint, !checkpoint.manifest().files.empty(),
            "{}: holds no tokenizer: the run that wrote it had none", checkpoint.folder());
    std::shared_ptr<const core::data::Tokenizer> tokenizer =
        core::data::load_tokenizer(checkpoint.manifest().files, checkpoint.folder());
    REQUIRE(checkpoint, tokenizer->vocab_size() <= vocab_size,
            "{}: its tokenizer has {} tokens, its model only {}", checkpoint.folder(),
            tokenizer->vocab_size(), vocab_size);
    return tokenizer;
}

RunConfig config_in_layout(const checkpoints::Checkpoint& checkpoint,
                           const ParallelSection& parallel) {
    auto config = parse_config<RunConfig>(checkpoint.manifest().configuration,
                                          checkpoint.folder() + ": configuration");
    config.parallel = parallel;
    if (const auto problem = validate_shares(parallel, config.model))
        FAIL(config, "{}: {} ({})", problem->key, problem->message, checkpoint.folder());
    // What belongs to training.
    config.optimizer.z_loss = 0;
    config.train.recompute = Recompute::none;
    return config;
}

std::unique_ptr<core::optim::FlatTensors> restore_weights(core::models::Model& model,
                                                          const checkpoints::Checkpoint& checkpoint,
                                                          Session& session) {
    const auto parameters = model.parameters().all();
    auto weights = std::make_unique<core::optim::FlatTensors>(
        core::optim::materialize(parameters, session.allocator()));
    checkpoints::load(checkpoint, session.ranks(), state_tensors(parameters),
                      load_options(session, true));
    for (core::Parameter* parameter : parameters)
        parameter->changed();
    return weights;
}

RestoredModel RestoredModel::open(const std::string& path, const ParallelSection& parallel,
                                  Session& session) {
    const checkpoints::Checkpoint checkpoint = open_checkpoint_together(path, session);
    const checkpoints::Manifest& manifest = checkpoint.manifest();
    const auto finetuned = manifest.blobs.find(finetune_blob);
    const bool is_classifier =
        finetuned != manifest.blobs.end() &&
        parse_config<FinetuneSection>(finetuned->second, checkpoint.folder() + ": configuration")
                .mode == FinetuneMode::classification;
    REQUIRE(checkpoint, !is_classifier,
            "{}: a classifier, made by finetune.mode=classification, which was not trained to "
            "predict text; `plinth evaluate` takes it with evaluate.format=classification",
            checkpoint.folder());
    RestoredModel restored{.folder = checkpoint.folder(),
                           .step = manifest.counter("steps"),
                           .config = config_in_layout(checkpoint, parallel),
                           .groups = nullptr,
                           .model = nullptr,
                           .tokenizer = nullptr,
                           .weights = nullptr};
    restored.tokenizer = checkpoint_tokenizer(checkpoint, restored.config.model.vocab_size);
    restored.groups = std::make_unique<parallel::Groups>(session.world(), mesh_config(parallel));
    restored.model = language_model(restored.config, *restored.groups);
    restored.weights = restore_weights(*restored.model, checkpoint, session);
    return restored;
}

}  // namespace plinth::launch
