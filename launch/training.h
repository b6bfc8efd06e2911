// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>

#include "core/models/model.h"
#include "core/optim/schedule.h"
#include "launch/batch_feed.h"
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

/// A step whose work was handed out, as far as the host knows it then; the same on every rank.
struct GivenStep {
    int64_t number = 0;        ///< steps done with this one
    int64_t samples = 0;       ///< of it
    int64_t samples_done = 0;  ///< consumed so far, this step included
    int64_t tokens_done = 0;   ///< the same
    int64_t tokens = 0;        ///< computed in it, padding included
    double learning_rate = 0.0;
    double slowest_seconds = 0.0;  ///< computing, without waiting for others: of the slowest rank
    double fastest_seconds = 0.0;  ///< and of the fastest
    parallel::LaneReducer::Statistics communication;
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
    /// Of the next step.
    parallel::StepScalars step_scalars() const;
    /// Clips, updates (or skips) and advances the counters.
    void update(parallel::StepScalars& scalars);
    /// Logs the steps of which the host knows what they came to: on a device that may be all but
    /// the last.
    void log();
    void check_replicas_if_due();
    /// True after a signal, at the time limit, and when the run has diverged.
    bool is_over() const { return is_stopped_ || has_diverged_; }

    /// Collective. The final checkpoint, unless the run has diverged, and the exit code.
    int finish();

    TrainingState state;

    Session& session() { return session_; }

  private:
    parallel::LanePlan plan_of(int64_t batch) const;
    void begin_fresh();
    /// Where run.graphs captures no micro-batch.
    void warn_of_graphs();
    void open_metrics();
    core::data::NextRequest loader_requests();
    void raise_flags(parallel::StepScalars& scalars) const;
    /// Waits for all steps and logs them.
    void settle();
    bool log_first(bool waits);
    void log(const GivenStep& step, const StepMeans& means);
    bool may_be_last() const;
    StepRecord record_of(const GivenStep& step, const StepMeans& means);
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
    BatchFeed feed_;
    TimeLimit time_limit_;

    std::deque<GivenStep> given_;  ///< and not logged yet
    bool is_stopped_ = false;      ///< a signal or the time limit
    bool has_diverged_ = false;    ///< the last of train.max_skipped_steps skipped in a row
    double peak_flops_ = 0.0;
    double step_began_ = 0.0;  ///< or, where steps end on a device, when the one before was logged
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
