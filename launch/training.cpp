// SPDX-License-Identifier: Apache-2.0
#include "launch/training.h"

#include <algorithm>

#include "kernels/runtime/trace.h"
#include "launch/build.h"
#include "launch/disk_space.h"
#include "launch/exit_codes.h"
#include "launch/peak_flops.h"
#include "launch/sample_text.h"

namespace plinth::launch {

using parallel::Phase;
using parallel::PhaseMark;

namespace {

core::data::TokenizerFiles tokenizer_files(const TrainingData& data) {
    return data.tokenizer ? data.tokenizer->serialize() : core::data::TokenizerFiles{};
}

/// As manifests list them, fastest first.
std::vector<checkpoints::MeshAxis> axes_of(const parallel::Mesh& mesh) {
    return {{"tp", mesh.size(parallel::Axis::tensor)},
            {"cp", mesh.size(parallel::Axis::context)},
            {"dp", mesh.size(parallel::Axis::data)},
            {"pp", mesh.size(parallel::Axis::pipeline)}};
}

std::vector<core::data::SkipRange> skips_of(const DataSection& data) {
    std::vector<core::data::SkipRange> skips;
    for (const SkipRange& range : data.skip)
        skips.push_back({range.begin, range.end});
    return skips;
}

}  // namespace

Training::Training(const RunConfig& config, Session& session, parallel::Groups& groups,
                   core::models::Model& model, TrainingData& data, TrainingOptions options)
    : config_(config),
      session_(session),
      model_(model),
      data_(data),
      options_(std::move(options)),
      groups_(groups),
      engine_(config, session, groups, model),
      schedule_(learning_rate_schedule(config.optimizer,
                                       total_steps(config.train, config.data.sequence_length))),
      checkpoints_(config.checkpoint, session, engine_.state(),
                   {.configuration = options_.configuration,
                    .blobs = options_.blobs,
                    .tokenizer = tokenizer_files(data),
                    .mesh = axes_of(groups.mesh())}),
      evaluator_(config, session, groups, model, data),
      feed_(session.stream(), {.batches = session.allocator(), .pinned = session.host_allocator()},
            config.data.document_mask),
      time_limit_{.limit = config.run.time_limit} {
    engine_.decide_on_device();
}

void Training::start() {
    const bool resumed = checkpoints_.resume(state, [this](const checkpoints::Manifest& manifest) {
        require_resumable(manifest, config_, data_, options_.compare, session_);
    });
    if (resumed) {
        engine_.weights_changed();
        session_.algorithms().resume(state.matmul_algorithms);
        engine_.restore_fp8_history(state.fp8_history, "the checkpoint");
    } else {
        begin_fresh();
    }
    if (session_.speaks())
        require_disk_space(session_.files(), config_, state.steps_done(),
                           [this](const std::string& line) { session_.warn(line); });
    session_.say(fmt::format("run {} ({}) in {}: ranks {}, steps {}", config_.run.name,
                             state.run_id, config_.run.folder, session_.world().size(),
                             schedule_.total_steps));
    engine_.set_update_count(state.step.update_count);
    core::data::reblend(state.sampler, data_.blend);
    core::data::set_skips(state.sampler, skips_of(config_.data));
    data_.sampler = state.sampler;
    peak_flops_ = config_.run.peak_flops > 0
                      ? config_.run.peak_flops
                      : peak_flops_of(session_, dtype_of(config_.train.dtype), config_.train.tf32);
    session_.algorithms().let_first_rank_time();
    checkpoints_.reserve();
    open_metrics();
    warn_of_graphs();
    loader_ = data_.start(config_, loader_requests());
    step_began_ = session_.seconds();
    session_.activity().enter(Phase::other);
}

void Training::begin_fresh() {
    state.run_id =
        session_.ranks().broadcast(session_.speaks() ? checkpoints::new_run_id() : "", 0);
    state.step.seed = static_cast<uint64_t>(config_.train.seed);
    state.sampler = core::data::start_sampling(static_cast<uint64_t>(config_.data.seed),
                                               config_.data.sequence_length, data_.blend);
    engine_.initialize(state.step.seed);
    if (config_.checkpoint.init.empty()) return;
    const checkpoints::Checkpoint base =
        open_checkpoint_together(config_.checkpoint.init, session_);
    data_.require_tokenizer_of(base.manifest(), base.folder());
    const auto given = engine_.weights(
        [this](const auto& parameter) { return !options_.is_new || !options_.is_new(parameter); });
    session_.stream().synchronize();  // the initial weights are in place
    checkpoints::load(base, session_.ranks(), given, load_options(session_, true));
    engine_.weights_changed();
    session_.say(fmt::format("weights from {}", config_.checkpoint.init));
}

void Training::warn_of_graphs() {
    const parallel::LanePlan plan = plan_step();
    if (!config_.run.graphs || plan.ranks == 1 || plan.slots > plan.lanes) return;
    session_.warn(fmt::format(
        "run.graphs: each of the {} micro-batches of a step is a lane of its own (train.lanes), "
        "whose gradients leave for other data ranks while it is computed, so that none is "
        "captured. "
        "With train.lanes={}, which changes the order of sums, all but {} would be",
        plan.slots, plan.ranks, plan.ranks));
}

core::data::NextRequest Training::loader_requests() {
    // The loader looks ahead: it follows the batch ramp by itself, from the samples consumed now.
    const auto plan = [this, consumed = state.consumed_samples()](
                          int64_t step) mutable -> std::optional<core::data::StepSlots> {
        if (step >= schedule_.total_steps) return std::nullopt;
        const int64_t batch = global_batch_at(config_.train, consumed);
        core::data::StepSlots slots{
            .first = consumed,
            .micro_batch = config_.train.micro_batch,
            .length = config_.data.sequence_length,
            .slots = plan_of(batch).slots_of(groups_.coordinate(parallel::Axis::data))};
        consumed += batch;
        return slots;
    };
    return core::data::requests_of(plan, state.steps_done());
}

parallel::LanePlan Training::plan_step() const {
    return plan_of(global_batch_at(config_.train, state.consumed_samples()));
}

parallel::LanePlan Training::plan_of(int64_t batch) const {
    return {batch / config_.train.micro_batch, config_.train.lanes,
            groups_.size(parallel::Axis::data)};
}

void Training::run_micro_batches(const core::models::Phase& phase, parallel::StepScalars& scalars) {
    session_.activity().set_step(state.steps_done() + 1);
    const auto source = [this, &scalars](int64_t slot) {
        const PhaseMark mark(session_.activity(), Phase::data);
        const auto loaded = loader_->next();
        CHECK(loaded && loaded->step == state.steps_done() && loaded->slot == slot,
              "the loader gave another micro-batch than slot {} of step {}", slot,
              state.steps_done());
        if (groups_.speaks_for_slot()) scalars.add_tokens(loaded->rows * loaded->length);
        return feed_(*loaded);
    };
    engine_.run_micro_batches(phase, plan_step(), state.step, source, scalars);
}

bool Training::time_is_up() const {
    TimeLimit time = time_limit_;
    time.longest_save = checkpoints_.longest_save_seconds();
    const int64_t next = state.steps_done() + 1;  // what this step makes it
    return time.is_near(session_.seconds(), evaluator_.is_due(next), sample_is_due(next));
}

void Training::raise_flags(parallel::StepScalars& scalars) const {
    if (signal_.requested() || time_is_up()) scalars.raise(parallel::Flag::stop);
    if (checkpoints_.wants_save()) scalars.raise(parallel::Flag::save);
    const checkpoints::SaveState save = checkpoints_.local_state();
    if (save.busy == 0) scalars.raise(parallel::Flag::save_finished);
    if (save.failed != 0) scalars.raise(parallel::Flag::save_failed);
    if (session_.algorithms().has_news()) scalars.raise(parallel::Flag::algorithms);
}

void Training::exchange_algorithms() {
    session_.algorithms().exchange();
    // A run on CPUs hands on what it found in its checkpoint.
    if (const std::string text = session_.algorithms().text(); !text.empty())
        state.matmul_algorithms = text;
}

parallel::StepScalars Training::step_scalars() const {
    // What the device decides needs no losses of the host.
    return parallel::StepScalars(engine_.decides_on_device() ? 0 : plan_step().slots,
                                 session_.world());
}

void Training::update(parallel::StepScalars& scalars) {
    const TraceRange range("update");
    raise_flags(scalars);
    scalars.set_busy_seconds(session_.seconds() - step_began_ -
                             engine_.communication().seconds_waiting);
    {
        const PhaseMark mark(session_.activity(), Phase::reduce);
        scalars.reduce(session_.world());
    }
    if (scalars.raised(parallel::Flag::algorithms) > 0) exchange_algorithms();
    is_stopped_ = scalars.raised(parallel::Flag::stop) > 0;
    const int64_t samples = global_batch_at(config_.train, state.consumed_samples());
    {
        const PhaseMark mark(session_.activity(), Phase::save);
        checkpoints_.before_update();
    }
    state.step.learning_rate = schedule_.rate(state.steps_done());
    engine_.end_step(scalars, state.step.learning_rate);
    state.sampler.consumed += samples;
    state.consumed_tokens += samples * config_.data.sequence_length;
    ++state.step.step;
    given_.push_back({.number = state.steps_done(),
                      .samples = samples,
                      .samples_done = state.consumed_samples(),
                      .tokens_done = state.consumed_tokens,
                      .tokens = scalars.tokens(),
                      .learning_rate = state.step.learning_rate,
                      .slowest_seconds = scalars.busy_seconds(scalars.busiest_rank()),
                      .fastest_seconds = scalars.busy_seconds(scalars.idlest_rank()),
                      .communication = engine_.communication()});

    const PhaseMark mark(session_.activity(), Phase::save);
    checkpoints_.agree(scalars.raised(parallel::Flag::save) > 0);
    checkpoints_.advance(
        {.busy = session_.world().size() - scalars.raised(parallel::Flag::save_finished),
         .failed = scalars.raised(parallel::Flag::save_failed)});
}

// --- what is due between steps
// --------------------------------------------------------------------

void Training::evaluate_if_due() {
    if (!evaluator_.is_due(state.steps_done())) return;
    settle();
    const double began = session_.seconds();
    std::optional<double> training_loss;
    if (steps_since_evaluation_ > 0)
        training_loss = loss_since_evaluation_ / static_cast<double>(steps_since_evaluation_);
    EvaluationRecord record =
        evaluator_.evaluate(state.steps_done(), state.consumed_samples(), training_loss);
    if (options_.measure) options_.measure(record);
    metrics_->evaluation(record);
    loss_since_evaluation_ = 0.0;
    steps_since_evaluation_ = 0;
    step_began_ = session_.seconds();
    time_limit_.longest_evaluation = std::max(time_limit_.longest_evaluation, step_began_ - began);
}

bool Training::sample_is_due(int64_t steps_done) const {
    const int64_t every = config_.train.sample_every;
    return every > 0 && steps_done > 0 && steps_done % every == 0;
}

void Training::sample_if_due() {
    if (!sample_is_due(state.steps_done())) return;
    settle();
    const PhaseMark mark(session_.activity(), Phase::sample);
    const double began = session_.seconds();
    // Every rank: a layout may gather or pass on weights and activations meanwhile.
    session_.say(
        sample_text(session_, groups_, model_, *data_.tokenizer, config_, state.steps_done()));
    step_began_ = session_.seconds();
    time_limit_.longest_sample = std::max(time_limit_.longest_sample, step_began_ - began);
}

void Training::save_if_due() {
    const TraceRange range("save");
    const PhaseMark mark(session_.activity(), Phase::save);
    if (!checkpoints_.is_due(state)) return;
    settle();  // counts of updates and skipped steps
    // After a skipped step a save waits: what may have diverged must push no sound checkpoint out.
    if (skipped_in_a_row_ > 0) return;
    state.fp8_history = engine_.fp8_history();
    checkpoints_.save(state);
}

void Training::check_replicas_if_due() {
    const int64_t every = config_.run.hash_check_every;
    if (every > 0 && state.steps_done() % every == 0) engine_.check_replicas(state.steps_done());
}

void Training::say_diverged() const {
    const int64_t saved = checkpoints_.last_saved_step();
    session_.say(fmt::format(
        "diverged: {} steps in a row were not finite and were skipped (train.max_skipped_steps), "
        "the last is step {}, learning rate {:.3e}; last good step {}, newest checkpoint {}, and "
        "nothing is saved now. Starting again repeats this: lower optimizer.lr, leave the samples "
        "of these steps out with data.skip, or go back by moving the newest checkpoints away",
        skipped_in_a_row_, state.steps_done(), state.step.learning_rate,
        state.steps_done() - skipped_in_a_row_, saved < 0 ? "none" : fmt::format("{}", saved)));
}

int Training::finish() {
    settle();
    const PhaseMark mark(session_.activity(), Phase::save);
    exchange_algorithms();  // evaluations and samples since the last step may have brought some
    if (has_diverged_) {
        checkpoints_.settle();
        say_diverged();
        return exit_diverged;
    }
    const bool asked = !session_.ranks().all_agree(!signal_.requested());
    state.fp8_history = engine_.fp8_history();
    checkpoints_.finish(state);
    if (steps_here_ > 0 && groups_.size(parallel::Axis::data) > 1)
        session_.say(
            fmt::format("gradient exchange hidden behind the backward pass: {:.1f}% of bytes",
                        100.0 * hidden_share_sum_ / static_cast<double>(steps_here_)));
    // A run that was stopped before its last evaluation is not done: the next start makes it.
    const bool is_owed = evaluator_.is_due(state.steps_done()) || sample_is_due(state.steps_done());
    if (!is_stopped_ || (is_finished() && !is_owed)) {
        session_.say(fmt::format("done: {} steps, {} tokens, {} skipped", state.steps_done(),
                                 state.consumed_tokens, state.skipped_steps));
        return exit_done;
    }
    session_.say(fmt::format("stopped {} after step {}; the same command goes on from there",
                             asked ? "on request" : "before the time limit", state.steps_done()));
    return asked ? exit_stopped : exit_time_limit;
}

}  // namespace plinth::launch
