// SPDX-License-Identifier: Apache-2.0
// What a training's steps came to: when the host learns it, and where it is written.
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <tuple>
#include <utility>

#include "launch/environment.h"
#include "launch/metrics/best_effort.h"
#include "launch/metrics/jsonl_log.h"
#include "launch/metrics/model_flops.h"
#include "launch/metrics/progress_line.h"
#include "launch/metrics/tensorboard.h"
#include "launch/training.h"

namespace plinth::launch {

using parallel::Phase;
using parallel::PhaseMark;

namespace {

double wall_time() {
    return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch())
        .count();
}

}  // namespace

void Training::open_metrics() {
    if (!session_.speaks()) {
        metrics_ = std::make_unique<NullSink>();
        return;
    }
    core::io::FileSystem& files = session_.files();
    files.make_directories(config_.run.folder);
    const std::string jsonl = core::io::join(config_.run.folder, "metrics.jsonl"),
                      tensorboard = core::io::join(config_.run.folder, "tensorboard");
    cut_metrics(files, jsonl, state.steps_done(),
                [this](const std::string& line) { session_.warn(line); });
    // mpirun gives every rank a pseudo-terminal and sends what it says through a pipe.
    const bool is_terminal = session_.world().size() == 1 && isatty(STDOUT_FILENO) == 1;
    std::vector<std::unique_ptr<MetricsSink>> sinks;
    const auto add_log = [&](std::unique_ptr<MetricsSink> log, const std::string& path) {
        sinks.push_back(std::make_unique<BestEffortSink>(
            std::move(log), path, [this](const std::string& line) { session_.warn(line); }));
    };
    sinks.push_back(std::make_unique<ProgressSink>(
        stdout, std::max<int64_t>(1, config_.run.log_every), is_terminal));
    if (config_.run.metrics.jsonl) add_log(std::make_unique<JsonlLog>(files, jsonl), jsonl);
    if (config_.run.metrics.tensorboard)
        add_log(std::make_unique<TensorboardLog>(
                    files, TensorboardLog::Options{.folder = tensorboard,
                                                   .wall_time = wall_time(),
                                                   .host = session_.world().host(),
                                                   .process = getpid(),
                                                   .resumed_step = state.steps_done(),
                                                   .resumed_samples = state.consumed_samples()}),
                tensorboard);
    metrics_ = std::make_unique<SinkList>(std::move(sinks));
}

/// True if no step may follow the last one before the host knows what it came to.
bool Training::may_be_last() const {
    const int64_t most = config_.train.max_skipped_steps;
    return is_stopped_ ||
           (most > 0 && skipped_in_a_row_ + static_cast<int64_t>(given_.size()) >= most);
}

void Training::log() {
    // A device always has the next step to work on while the host waits for the one before it.
    while (log_first(may_be_last() || given_.size() > size_t{kernels::StepTerms::most_ahead})) {
    }
}

void Training::settle() {
    while (log_first(/*waits=*/true)) {
    }
}

bool Training::log_first(bool waits) {
    const PhaseMark mark(session_.activity(), Phase::log);
    const std::optional<StepMeans> means = engine_.take_means(waits);
    if (!means) return false;
    const GivenStep step = given_.front();
    given_.pop_front();
    log(step, *means);
    return true;
}

void Training::log(const GivenStep& step, const StepMeans& means) {
    const bool is_skipped = !means.is_finite();
    skipped_in_a_row_ = is_skipped ? skipped_in_a_row_ + 1 : 0;
    has_diverged_ =
        config_.train.max_skipped_steps > 0 && skipped_in_a_row_ >= config_.train.max_skipped_steps;
    state.skipped_steps += is_skipped;
    state.step.update_count = engine_.update_count();
    const StepRecord record = record_of(step, means);
    metrics_->step(record);
    if (is_skipped)
        session_.warn(fmt::format(
            "step {}: loss {} or gradient norm {}{} is not finite; all ranks skipped the update",
            step.number, means.loss, means.gradient_norm,
            config_.train.fp8 == Fp8Scaling::delayed ? " or a tensor of the 8-bit products" : ""));
    time_limit_.longest_step = std::max(time_limit_.longest_step, record.step_seconds);
    step_began_ += record.step_seconds;
    loss_since_evaluation_ += means.loss;
    ++steps_since_evaluation_;
    ++steps_here_;
    hidden_share_sum_ += step.communication.hidden_share();
}

StepRecord Training::record_of(const GivenStep& step, const StepMeans& means) {
    const double seconds = std::max(1e-9, session_.seconds() - step_began_);
    const double rate = static_cast<double>(step.tokens) / seconds;
    const double flops = training_flops_per_token(config_.model, config_.data.sequence_length);
    const int64_t ranks = session_.world().size();
    const MemoryUse memory = engine_.memory();
    StepRecord record{
        .step = step.number,
        .total_steps = schedule_.total_steps,
        .samples = step.samples_done,
        .tokens = step.tokens_done,
        .global_batch = step.samples,
        .ranks = ranks,
        .wall_time = wall_time(),
        .loss = means.loss,
        .learning_rate = step.learning_rate,
        .grad_norm = means.gradient_norm,
        .step_seconds = seconds,
        .tokens_per_second = rate,
        .flops_per_second = rate * flops / static_cast<double>(ranks),
        .mfu = model_flops_utilisation(rate, flops, ranks, peak_flops_),
        .memory_bytes = static_cast<int64_t>(memory.peak),
        .reserved_memory_bytes = static_cast<int64_t>(memory.peak_reserved),
        .cached_memory_bytes = static_cast<int64_t>(memory.cached()),
        .memory_requests = memory.requests,
        .memory_taken = memory.taken,
        .resident_bytes = peak_resident_bytes(),
        .start_resident_bytes = session_.start_resident_bytes(),
        .skipped_steps = state.skipped_steps,
        .eta_seconds = seconds * static_cast<double>(schedule_.total_steps - step.number)};
    if (config_.optimizer.z_loss > 0) record.z_loss = means.z_loss;
    record.data_wait_seconds = loader_->waited_seconds() - data_wait_before_;
    record.communication_wait_seconds = step.communication.seconds_waiting;
    std::pair busy(step.slowest_seconds, step.fastest_seconds);
    if (ranks == 1)
        busy = {seconds, seconds};
    else if (engine_.decides_on_device() && session_.device().type != DeviceType::cpu)
        // The host of a device is done with a step before the step is.
        busy = {means.slowest_seconds, means.fastest_seconds};
    std::tie(record.slowest_rank_seconds, record.fastest_rank_seconds) = busy;
    data_wait_before_ = loader_->waited_seconds();
    record.save_wait_seconds = checkpoints_.blocked_seconds() - save_wait_before_;
    save_wait_before_ = checkpoints_.blocked_seconds();
    if (record.mfu && *record.mfu > 1.0) {
        record.mfu.reset();
        if (!warned_of_peak_)
            session_.warn(fmt::format(
                "step {}: more model FLOPs than the peak of {:.3g} FLOP/s a rank, which was "
                "measured "
                "at the start, perhaps beside other work: mfu is left out; run.peak_flops sets it",
                step.number, peak_flops_));
        warned_of_peak_ = true;
    }
    return record;
}

}  // namespace plinth::launch
