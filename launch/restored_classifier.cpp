// SPDX-License-Identifier: Apache-2.0
#include "launch/restored_classifier.h"

#include <algorithm>

#include "core/ops/cast.h"
#include "launch/build.h"
#include "launch/checkpoint_keeper.h"
#include "launch/config/stage_config.h"
#include "launch/finetune.h"
#include "launch/finetune_examples.h"
#include "launch/micro_batch.h"
#include "launch/restored_model.h"
#include "launch/training_data.h"

namespace plinth::launch {

namespace {

void count_batch(const core::models::Classifier& model, const core::data::MicroBatch& loaded,
                 Session& session, Confusion& confusion) {
    const core::Tensor logits = core::ops::cast(
        model.logits(to_batch(loaded, /*document_mask=*/true, session)), DType::f32);
    const std::vector<float> values = logits.read<float>(session.stream());
    const auto classes = static_cast<size_t>(model.classes());
    for (int64_t i = 0; i < loaded.rows; ++i) {
        const std::span row(values.data() + static_cast<size_t>(i) * classes, classes);
        const auto targets = loaded.targets.begin() + i * loaded.length;
        const int32_t truth = *std::find_if(targets, targets + loaded.length, [](int32_t target) {
            return target != core::data::kIgnoredTarget;
        });
        confusion.add(truth, std::max_element(row.begin(), row.end()) - row.begin());
    }
}

}  // namespace

RestoredClassifier RestoredClassifier::open(const std::string& path,
                                            const ParallelSection& parallel, Session& session) {
    const checkpoints::Checkpoint checkpoint = open_checkpoint_together(path, session);
    const checkpoints::Manifest& manifest = checkpoint.manifest();
    const std::string where = checkpoint.folder() + ": configuration";
    const auto blob = manifest.blobs.find(finetune_blob);
    const FinetuneSection stage = blob == manifest.blobs.end()
                                      ? FinetuneSection{}
                                      : parse_config<FinetuneSection>(blob->second, where);
    REQUIRE(checkpoint, stage.mode == FinetuneMode::classification,
            "{}: holds no classifier: make one with `plinth finetune finetune.mode=classification`",
            checkpoint.folder());
    RestoredClassifier restored{.folder = checkpoint.folder(),
                                .step = manifest.counter("steps"),
                                .config = config_in_layout(checkpoint, parallel),
                                .labels = stage.labels,
                                .groups = nullptr,
                                .model = nullptr,
                                .tokenizer = nullptr,
                                .weights = nullptr};
    restored.tokenizer = checkpoint_tokenizer(checkpoint, restored.config.model.vocab_size);
    restored.groups = std::make_unique<parallel::Groups>(session.world(), mesh_config(parallel));
    restored.model =
        classifier(restored.config, static_cast<int64_t>(stage.labels.size()), *restored.groups);
    restored.weights = restore_weights(*restored.model, checkpoint, session);
    return restored;
}

Confusion classify(const core::models::Classifier& model, const core::data::Source& examples,
                   const ClassifyOptions& options, Session& session) {
    const int64_t count = examples.describe().units;
    const int64_t batches = (count + options.micro_batch - 1) / options.micro_batch;
    Confusion confusion(model.classes());
    const parallel::PhaseMark mark(session.activity(), parallel::Phase::evaluate);
    const core::Scope scope(session.scope(options.dtype));
    // All ranks make the same number of passes, since the model may gather weights meanwhile: one
    // without a batch repeats another's, which is not counted.
    Confusion repeated(model.classes());
    const parallel::Groups& groups = options.groups;
    for (int64_t at = 0; at < batches; at += groups.size(parallel::Axis::data)) {
        const int64_t i = at + groups.coordinate(parallel::Axis::data);
        const int64_t first = i % batches * options.micro_batch;
        count_batch(model,
                    batch_in_order(examples, first, std::min(options.micro_batch, count - first),
                                   options.window, /*document_mask=*/true),
                    session, i < batches ? confusion : repeated);
    }
    if (!groups.speaks_for_slot()) std::ranges::fill(confusion.counts(), 0);
    session.ranks().sum(confusion.counts());
    return confusion;
}

Confusion classify(const RestoredClassifier& classifier,
                   const std::vector<core::data::TextPair>& pairs, const ClassifyOptions& options,
                   Session& session) {
    ExampleSet set =
        classification_examples(pairs, classifier.labels, *classifier.tokenizer, options.window);
    if (set.cut > 0)
        session.warn(fmt::format("{} of {} texts are longer than {} tokens and lost their left",
                                 set.cut, pairs.size(), options.window));
    const core::data::ExampleSource source("examples", std::move(set.examples), options.window,
                                           classifier.tokenizer->end_of_document().value_or(0));
    return classify(*classifier.model, source, options, session);
}

}  // namespace plinth::launch
