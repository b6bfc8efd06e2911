// SPDX-License-Identifier: Apache-2.0
#include "launch/checkpoint_keeper.h"

#include <algorithm>
#include <span>

#include "launch/config/load.h"
#include "launch/environment.h"

namespace plinth::launch {

namespace {

/// For a copy of the tensors: they may all be in host memory, which the device need not reach.
CachingAllocator& staging_memory(Session& session, std::span<const core::StateTensor> tensors) {
    const bool is_host = std::ranges::all_of(
        tensors, [](const auto& tensor) { return tensor.device.type == DeviceType::cpu; });
    return is_host ? session.pageable_allocator() : session.host_allocator();
}

checkpoints::WriterOptions writer_options(const CheckpointSection& config, Session& session,
                                          std::span<const core::StateTensor> tensors) {
    return {.node = session.world().host(),
            .retention = {.keep_newest = config.keep,
                          .keep_every = config.keep_every,
                          .check_every_byte = config.verify},
            .warn = [&session](const std::string& line) { session.warn(line); },
            .before_commit = [&session] { session.locks().check_here(); },
            .allocator = &staging_memory(session, tensors)};
}

/// Checkpoints of before vocabularies were padded in memory alone hold the padding too.
bool holds_padding(const checkpoints::Manifest& manifest, const checkpoints::TensorInfo& kept,
                   int64_t rows) {
    if (!kept.name.ends_with(".embedding.tokens.weight") && !kept.name.ends_with(".head.weight"))
        return false;
    const auto model = parse_config<RunConfig>(manifest.configuration, "configuration").model;
    return rows == model.vocab_size && kept.global_shape[0] == (rows + model.vocab_multiple - 1) /
                                                                   model.vocab_multiple *
                                                                   model.vocab_multiple;
}

}  // namespace

bool saves_beside_training(const CheckpointSection& config) {
    return config.async && (config.every > 0 || config.every_seconds > 0);
}

CheckpointKeeper::CheckpointKeeper(const CheckpointSection& config, Session& session,
                                   std::vector<core::StateTensor> tensors,
                                   RunDescription description)
    : config_(config),
      session_(session),
      tensors_(std::move(tensors)),
      description_(std::move(description)),
      writer_(session.files(), session.ranks(), writer_options(config, session, tensors_)) {}

bool CheckpointKeeper::resume(TrainingState& state,
                              const std::function<void(const checkpoints::Manifest&)>& accept) {
    const auto warn = [this](const std::string& line) { session_.warn(line); };
    checkpoints::LoadOptions options = load_options(session_, false);
    options.may_convert = is_moment;
    const auto restored = checkpoints::restore_newest(
        session_.files(), session_.ranks(), config_.folder, tensors_, warn, options, accept);
    if (!restored) return false;
    const std::string difference = environment_difference(
        restored->manifest.properties, environment_properties(session_.device()));
    if (!difference.empty())
        session_.warn(difference +
                      "; the run goes on, but no longer equals an uninterrupted one bit for bit");
    state.restore(restored->manifest, restored->folder);
    last_saved_step_ = last_started_step_ = state.steps_done();
    session_.say(fmt::format("resumed from {} at step {} ({} samples)", restored->folder,
                             state.steps_done(), state.consumed_samples()));
    return true;
}

bool CheckpointKeeper::is_due(const TrainingState& state) const {
    if (state.steps_done() == last_started_step_) return false;
    const int64_t every = config_.every, last = std::max<int64_t>(0, last_started_step_);
    return time_due_ || (every > 0 && state.steps_done() / every > last / every);
}

bool CheckpointKeeper::wants_save() const {
    return session_.speaks() && config_.every_seconds > 0 &&
           session_.seconds() - last_save_seconds_ >= config_.every_seconds;
}

checkpoints::SaveRequest CheckpointKeeper::request(const TrainingState& state) const {
    session_.stream().synchronize();  // the copy-out reads beside the stream
    checkpoints::SaveRequest request{.root = config_.folder,
                                     .run_id = state.run_id,
                                     .step = state.steps_done(),
                                     .manifest = {},
                                     .tensors = tensors_};
    request.manifest.configuration = description_.configuration;
    request.manifest.mesh = description_.mesh;
    request.manifest.blobs = description_.blobs;
    request.manifest.files = description_.tokenizer;
    request.manifest.properties = environment_properties(session_.device());
    state.store(request.manifest);
    return request;
}

void CheckpointKeeper::settle() {
    if (writer_.active()) report(writer_.finish());
    if (!writer_.retaining()) return;
    writer_.wait_retained();
    count_seconds();
}

void CheckpointKeeper::reserve() {
    if (saves_beside_training(config_)) writer_.reserve(tensors_);
}

void CheckpointKeeper::before_update() {
    const double began = session_.seconds();
    writer_.wait_copied();
    count_blocked(began);
}

void CheckpointKeeper::save(const TrainingState& state) {
    const double began = session_.seconds();
    settle();
    session_.locks().require_held();  // the first save of a job removes what others left unfinished
    last_started_step_ = state.steps_done();
    last_save_seconds_ = session_.seconds();
    time_due_ = false;
    if (config_.async)
        writer_.begin(request(state));
    else
        report(writer_.save(request(state)));
    count_blocked(began);
}

void CheckpointKeeper::advance(const checkpoints::SaveState& total) {
    const bool retaining = writer_.retaining();
    if (const auto outcome = writer_.advance(total)) report(*outcome);
    if (retaining && !writer_.retaining()) count_seconds();
}

void CheckpointKeeper::count_seconds() {
    longest_save_seconds_ =
        std::max(longest_save_seconds_, session_.seconds() - last_save_seconds_);
}

void CheckpointKeeper::report(const checkpoints::SaveOutcome& outcome) {
    count_seconds();
    if (!outcome.committed) {
        session_.locks().require_held();
        return session_.warn(outcome.message);
    }
    last_saved_step_ = outcome.step;
    session_.say(
        fmt::format("{} ({:.1f} MB of rank 0 in {:.2f} s; background threads took {:.2f} s "
                    "of processor time)",
                    outcome.message, static_cast<double>(outcome.bytes) / 1e6,
                    outcome.total_seconds, outcome.background_cpu_seconds));
}

void CheckpointKeeper::finish(const TrainingState& state) {
    settle();
    if (last_saved_step_ == state.steps_done()) return;
    last_save_seconds_ = session_.seconds();
    session_.locks().require_held();
    const checkpoints::SaveOutcome outcome = writer_.save(request(state));
    REQUIRE(io, outcome.committed, "{}", outcome.message);
    report(outcome);
    settle();
}

checkpoints::LoadOptions load_options(Session& session, bool subset) {
    return {.subset = subset, .may_have_more_rows = holds_padding, .progress = [&session] {
                session.activity().tick();
            }};
}

checkpoints::Checkpoint open_checkpoint(const std::string& path, Session& session) {
    core::io::FileSystem& files = session.files();
    const auto warn = [&session](const std::string& line) { session.warn(line); };
    if (files.exists(core::io::join(path, "COMMIT")))
        return checkpoints::Checkpoint::open(files, path);
    for (const std::string& root : {path, core::io::join(path, "checkpoints")})
        if (auto newest = checkpoints::open_newest(files, root, warn)) return std::move(*newest);
    FAIL(checkpoint,
         "{}: no checkpoint here: name a checkpoint folder, or the folder of a run that saved one",
         path);
}

checkpoints::Checkpoint open_checkpoint_together(const std::string& path, Session& session) {
    const std::string found = session.speaks() ? open_checkpoint(path, session).folder() : "";
    return checkpoints::Checkpoint::open(session.files(), session.ranks().broadcast(found, 0));
}

}  // namespace plinth::launch
