// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "core/autograd/activation_store.h"
#include "core/models/model.h"
#include "core/optim/adamw.h"
#include "core/optim/offload.h"
#include "launch/fp8_state.h"
#include "launch/host_pace.h"
#include "launch/memory_settings.h"
#include "launch/micro_batch_graphs.h"
#include "launch/session.h"
#include "launch/stage_state.h"
#include "launch/step_outcome.h"
#include "parallel/comm/groups.h"
#include "parallel/data_parallel/step_scalars.h"
#include "parallel/pipeline_parallel/runner.h"
#include "parallel/pipeline_parallel/shared_parameters.h"

namespace plinth::launch {

/// Gives a micro-batch slot of this rank; slots are asked for in the order of LanePlan::slots_of.
using BatchSource = std::function<core::Batch(int64_t slot)>;

/// What a step came to, the same on every rank: means over its global weight.
struct StepMeans {
    double weight = 1.0;  ///< at least 1
    double loss = 0.0;    ///< cross-entropy
    double z_loss = 0.0;
    double gradient_norm = 0.0;  ///< before clipping
    bool fp8_is_finite = true;   ///< what went into 8 bits
    /// That a device took for the micro-batches, of the slowest and of the fastest rank; 0 where
    /// the host decides.
    double slowest_seconds = 0.0, fastest_seconds = 0.0;

    /// A step that is not finite updates nothing, on all ranks.
    bool is_finite() const;
};

/// Memory for the parts of an engine's state; null: the session's.
struct StateAllocators {
    CachingAllocator* weights = nullptr;
    CachingAllocator* gradients = nullptr;
    CachingAllocator* optimizer = nullptr;
    CachingAllocator* offloaded = nullptr;  ///< with optimizer.offload; host memory
};

/// This rank's part of model, gradients and optimizer in the run's layout: what a training step is
/// made of, without data, files or logs.
class Engine {
  public:
    /// Collective. Gives the model's parameters storage. `config` is resolved and fits the world;
    /// it, the session, the groups, the model and the allocators must outlive the engine.
    Engine(const RunConfig& config, Session& session, parallel::Groups& groups,
           core::models::Model& model, const StateAllocators& allocators = {});

    /// Collective. Weights as the run's seed makes them.
    void initialize(uint64_t seed);
    /// Collective. After master weights were written from outside.
    void weights_changed();

    /// From the next step on the device decides what each comes to, where it can: with states on
    /// its device. Where it cannot, nothing changes. With run.graphs steps are then captured, too.
    void decide_on_device();
    /// True where it does: `scalars` then hold no losses, and slots are not set in them.
    bool decides_on_device() const { return outcomes_ != nullptr; }

    /// Collective. Forward and backward passes of this rank's slots and the sum of the gradients
    /// over all ranks; losses and weights go to `scalars`.
    void run_micro_batches(const core::models::Phase& phase, const parallel::LanePlan& plan,
                           const core::StepState& step, const BatchSource& source,
                           parallel::StepScalars& scalars);
    /// Collective. `scalars` are reduced. The norm is that of the mean gradient; NaN where an
    /// element is not finite.
    StepMeans means(const parallel::StepScalars& scalars);
    /// The summed gradients of this step, as this rank holds them: gradient.NAME.
    std::vector<core::StateTensor> gradients();
    /// Collective. One optimizer update with the mean gradient, scaled down to optimizer.clip where
    /// its norm is larger; none where the step is not finite.
    void update(const StepMeans& means, double learning_rate);

    /// Collective. The end of a step whose `scalars` are reduced: its means and the update with
    /// them, wherever they are decided.
    void end_step(const parallel::StepScalars& scalars, double learning_rate);
    /// What the first step came to whose means were not taken yet: if the host has them, or after a
    /// wait for them. None where all are taken. Where the device decides, at most one more step may
    /// end before they are.
    std::optional<StepMeans> take_means(bool waits);

    /// Adam's t, after the steps whose means were taken.
    int64_t update_count() const { return optimizer_.update_count(); }
    void set_update_count(int64_t count);
    /// The history of train.fp8=delayed, for checkpoints; see Fp8State.
    std::string fp8_history() const { return fp8_.history_text(); }
    void restore_fp8_history(const std::string& text, const std::string& where) {
        fp8_.restore(text, where);
    }
    /// What this rank holds of the master weights, as model.NAME, and of the optimizer's moments.
    std::vector<core::StateTensor> state();
    /// Of it the master weights of the parameters that are `wanted`.
    std::vector<core::StateTensor> weights(
        const std::function<bool(const core::Parameter&)>& wanted = {});
    /// Collective. Compares what ranks of a data group hold alike, all that those of a context
    /// group hold, and of a tensor group the parameters that it does not cut; see
    /// parallel::check_replicas.
    void check_replicas(int64_t step);

    /// Null without run.graphs.
    const MicroBatchGraphs* graphs() const { return graphs_.get(); }
    /// Of the session's tensors and those of graphs: `peak` is the most that they have held on the
    /// device.
    MemoryUse memory() const;

    /// Of the last step, its update included.
    parallel::LaneReducer::Statistics communication() const;
    /// Most bytes of host memory that train.offload_activations took at once so far.
    int64_t offloaded_activations() const {
        return activations_ ? static_cast<int64_t>(activations_->peak_bytes()) : 0;
    }
    parallel::Groups& groups() { return groups_; }

  private:
    void sum_over_tokens(std::span<const core::optim::ParameterGradient> owned);
    std::vector<core::optim::ParameterGradient> counted_once() const;
    double gradient_sum_norm();
    bool is_finite(ConstView largest_in_eight_bits);
    void run_passes(const core::models::Phase& phase, const parallel::LanePlan& plan,
                    const core::StepState& step, const BatchSource& source,
                    std::function<void(int64_t, const core::ops::Loss&)> on_loss);
    void launch_passes(const core::models::Phase& phase, const parallel::LanePlan& plan,
                       const core::Scope::Settings& settings, const BatchSource& source);
    StepNumber number_in_memory() const;
    void sum_gradients();
    double seconds_waited() const;

    const RunConfig& config_;
    Session& session_;
    parallel::Groups& groups_;
    MemoryAdvice advice_;
    parallel::SharedParameters shared_;
    std::unique_ptr<core::optim::Offload> offload_;  ///< null: states are where weights are
    StageState stage_;
    Fp8State fp8_;
    std::unique_ptr<core::ActivationStore> activations_;  ///< null: they stay where they are
    /// Null: without run.graphs. Before what may hold tensors of its memory when an error ends a
    /// run.
    std::unique_ptr<MicroBatchGraphs> graphs_;
    parallel::PipelineRunner pipeline_;
    int64_t step_ = 0;          ///< of the last micro-batches
    core::Tensor step_number_;  ///< the same, i64 [1], where kernels read it
    HostPace pace_;             ///< of steps that the device decides
    double waited_ = 0.0;       ///< in the last step, see seconds_waited
    core::optim::AdamW optimizer_;
    std::unique_ptr<StepOutcomes> outcomes_;  ///< null: the host decides
    std::deque<StepMeans> decided_;           ///< by the host, not taken yet
};

}  // namespace plinth::launch
