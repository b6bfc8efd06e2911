// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>

#include "core/models/model.h"
#include "core/optim/schedule.h"
#include "launch/checkpoint_keeper.h"
#include "launch/engine.h"
#include "launch/evaluator.h"
#include "launch/metrics/sink.h"
#include "launch/preflight.h"
#include "launch/session.h"
#include "launch/stop_signal.h"
#include "launch/time_limit.h"
#include "launch/training_data.h"
#include "launch/training_state.h"
#include "parallel/comm/groups.h"
#include "parallel/data_parallel/step_scalars.h"

namespace plinth::launch {

/// What one step did, the same on every rank.
struct StepResult {
    double loss = 0.0;    ///< cross-entropy, mean over the step's tokens
    double z_loss = 0.0;  ///< the term beside it, weight included, as a mean too
    int64_t samples = 0;
    int64_t tokens = 0;            ///< computed, padding included
    double gradient_norm = 0.0;    ///< of the mean gradient, before clipping
    bool skipped = false;          ///< not finite: nothing was updated
    bool stop = false;             ///< a signal or the time limit
    bool diverged = false;         ///< the last of train.max_skipped_steps skipped in a row
    double slowest_seconds = 0.0;  ///< computing, without waiting for others: of the slowest rank
    double fastest_seconds = 0.0;  ///< and of the fastest

    bool ends_run() const { return stop || diverged; }
};

/// What a stage adds to the common run.
struct TrainingOptions {
    /// The resolved RunConfig, as text: every checkpoint stores it.
    std::string configuration;
    /// More text that the checkpoints store, by name.
    std::map<std::string, std::string> blobs = {};
    /// Compares what a checkpoint stored in `blobs`, before a resume: appends what it refuses.
    CompareStage compare = {};
    /// True for a parameter that checkpoint.init does not give: it keeps its fresh weights. Empty:
    /// there is none.
    std::function<bool(const core::Parameter&)> is_new = {};
    /// Collective. Adds the stage's own measures to an evaluation.
    std::function<void(EvaluationRecord&)> measure = {};
};

/// The nouns of a training run and their small verbs. The loop itself stands in pretrain.cpp.
class Training {
  public:
    /// Configuration, model and data must outlive the run.
    Training(const RunConfig& config, Session& session, parallel::Groups& groups,
             core::models::Model& model, TrainingData& data, TrainingOptions options);

    /// Collective. Goes on from the run's newest checkpoint, or begins: from init weights of
    /// checkpoint.init or fresh ones.
    void start();

    bool is_finished() const { return state.steps_done() >= schedule_.total_steps; }
    void evaluate_if_due();
    void sample_if_due();
    void save_if_due();

    /// The slots, lanes and samples of the next step.
    parallel::LanePlan plan_step() const;
    /// Forward and backward passes of this rank's micro-batches and the sum of their gradients.
    void run_micro_batches(const core::models::Phase& phase, parallel::StepScalars& scalars);
    /// Clips, updates (or skips) and advances the counters.
    StepResult update(parallel::StepScalars& scalars);
    void log(const StepResult& result);
    void check_replicas_if_due();

    /// Collective. The final checkpoint, unless the run has diverged, and the exit code.
    int finish(const StepResult& last);

    TrainingState state;

    Session& session() { return session_; }

  private:
    parallel::LanePlan plan_of(int64_t batch) const;
    void begin_fresh();
    void open_metrics();
    core::data::NextRequest loader_requests();
    void raise_flags(parallel::StepScalars& scalars) const;
    /// Collective.
    void exchange_algorithms();
    bool time_is_up() const;
    bool sample_is_due(int64_t steps_done) const;
    void say_diverged() const;

    const RunConfig& config_;
    Session& session_;
    core::models::Model& model_;
    TrainingData& data_;
    TrainingOptions options_;
    parallel::Groups& groups_;
    Engine engine_;
    StopSignal signal_;
    core::optim::Schedule schedule_;
    CheckpointKeeper checkpoints_;
    Evaluator evaluator_;
    std::unique_ptr<MetricsSink> metrics_;
    std::unique_ptr<core::data::Loader> loader_;
    TimeLimit time_limit_;

    double peak_flops_ = 0.0;
    double step_began_ = 0.0;
    double loss_since_evaluation_ = 0.0;
    int64_t steps_since_evaluation_ = 0;
    int64_t steps_here_ = 0;
    int64_t skipped_in_a_row_ = 0;  ///< steps before this start do not count
    double hidden_share_sum_ = 0.0;
    double data_wait_before_ = 0.0;
    double save_wait_before_ = 0.0;
    bool warned_of_peak_ = false;
};

}  // namespace plinth::launch
