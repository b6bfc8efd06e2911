// SPDX-License-Identifier: Apache-2.0
#include "launch/preflight.h"

#include "core/models/transformer.h"
#include "launch/build.h"
#include "launch/checkpoint_keeper.h"
#include "launch/disk_space.h"
#include "launch/plan.h"

namespace plinth::launch {

namespace {

/// The run's data, or none, with a warning for each folder that holds no data set.
TrainingData open_data_if_there(const RunConfig& config, Session& session) {
    bool there = !config.data.sources.empty();
    if (!there) session.warn("data.sources: names no data set; nothing is checked against data");
    for (const std::string& folder : data_folders(config.data)) {
        if (session.files().exists(core::io::join(folder, core::data::DatasetManifest::kFileName)))
            continue;
        if (session.files().status(folder).kind == core::io::FileStatus::Kind::file)
            core::data::DatasetManifest::load(session.files(),
                                              folder);  // refuses it: never a folder
        there = false;
        session.warn(fmt::format(
            "data: {} is not there yet (`plinth data prepare` makes it); nothing is checked "
            "against data",
            folder));
    }
    if (!there) return {};
    TrainingData data = TrainingData::open(config, session.files());
    // Refuses a source that is shorter than a sample.
    core::data::start_sampling(static_cast<uint64_t>(config.data.seed), config.data.sequence_length,
                               data.blend);
    return data;
}

void require_weights(const checkpoints::Checkpoint& base, const Beginning& run) {
    for (const core::Parameter* parameter : run.declared.parameters().all()) {
        if (run.is_new && run.is_new(*parameter)) continue;
        const std::string name = weight_name(*parameter);
        const checkpoints::TensorInfo* info = base.find(name);
        REQUIRE(checkpoint, info && info->global_shape == parameter->shape(),
                "checkpoint.init: {} holds {} as {}, but the model of this configuration has {}: "
                "is it of another model?",
                base.folder(), name, info ? info->global_shape.text() : "nothing",
                parameter->shape().text());
    }
}

std::string held_out_text(const TrainingData& data) {
    return fmt::format("# held out            {} samples of {} data sets\n",
                       data.held_out_samples(), data.held_out.size());
}

}  // namespace

void require_resumable(const checkpoints::Manifest& manifest, const RunConfig& config,
                       const TrainingData& data, const CompareStage& compare,
                       const Session& session) {
    const auto stored =
        parse_config<RunConfig>(manifest.configuration, "the checkpoint's configuration");
    std::vector<Change> changes = diff_configs(stored, config);
    if (compare) compare(manifest, changes);
    std::string refused;
    std::vector<std::string> differences;
    for (const Change& change : changes) {
        const std::string text = fmt::format("{}: {} in the checkpoint, {} now", change.path,
                                             change.before, change.after);
        if (change.resume == Resume::refused) refused += (refused.empty() ? "" : "; ") + text;
        if (change.resume == Resume::recorded) differences.push_back(text);
    }
    REQUIRE(checkpoint, refused.empty(),
            "{}: the run cannot go on with another {}; put the old value back, or choose a new "
            "run.folder and checkpoint.init",
            config.checkpoint.folder, refused);
    for (const std::string& difference : differences)
        session.warn(difference +
                     "; the run goes on, but no longer equals an uninterrupted one bit for bit");
    if (stored.optimizer.moments != config.optimizer.moments)
        session.say(config.optimizer.moments == ComputeType::bf16
                        ? "moments: those of the checkpoint are rounded from fp32 to bf16"
                        : "moments: those of the checkpoint go from bf16 to fp32, which is exact");
    data.require_tokenizer_of(manifest, config.checkpoint.folder);
}

void print_plan(const RunConfig& config, Session& session) {
    const TrainingData data = open_data_if_there(config, session);
    core::models::Transformer declared(transformer_config(config));  // names and shapes, no storage
    print_plan(config, {.data = data, .declared = declared}, session);
}

void print_plan(const RunConfig& config, const Beginning& run, Session& session) {
    const auto warn = [&session](const std::string& line) { session.warn(line); };
    const auto newest = checkpoints::open_newest(session.files(), config.checkpoint.folder, warn);
    const int64_t steps_done = newest ? newest->manifest().counter("steps") : 0;
    std::string beginning;
    if (newest) {
        require_resumable(newest->manifest(), config, run.data, run.compare, session);
        beginning =
            fmt::format("# goes on from        {} at step {}\n", newest->folder(), steps_done);
    } else if (config.checkpoint.init.empty()) {
        beginning = "# begins with         fresh weights\n";
    } else {
        const checkpoints::Checkpoint base =
            open_checkpoint_together(config.checkpoint.init, session);
        require_weights(base, run);
        run.data.require_tokenizer_of(base.manifest(), base.folder());
        beginning = fmt::format("# begins with         the weights of {}\n", base.folder());
    }
    session.print_result(plan_text(config, session.world().size()) +
                         (run.data.sources.empty() ? "" : held_out_text(run.data)) + beginning);
    if (session.speaks()) require_disk_space(session.files(), config, steps_done, warn);
}

}  // namespace plinth::launch
