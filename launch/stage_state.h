// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "core/models/model.h"
#include "parallel/data_parallel/lane_reducer.h"
#include "parallel/pipeline_parallel/runner.h"
#include "parallel/zero/weights.h"

namespace plinth::launch {

/// Parameters of a pipeline's chunk by the reducer that sums their gradients: those whose gradient
/// the forward pass makes, those that another stage holds too, and the rest. A part may be empty.
std::array<std::vector<core::Parameter*>, 3> reducer_parts(
    const core::models::Chunk& chunk, const std::function<bool(const core::Parameter&)>& is_shared);

/// Gradients and weights of all chunks of this rank's stage. The gradients of each chunk are summed
/// over the data group by ordered lanes. Chunks of a pipeline are at different slots at the same
/// time, and so are, within the last one, the parameters that get their gradient in the forward
/// pass: each of these has a reducer, with a communicator of its own. So has a parameter that
/// another stage holds too: its sums are cut alike on both.
///
/// In a pipeline the number of exchanges under way is not limited: a rank that waited for a peer in
/// the middle of a lane, or before joining the last round of another reducer, could be the one for
/// which that peer's stages wait. So only the begin of a lane waits, for the end of the one before.
class StageState final : public parallel::GradientSlots {
  public:
    struct Options {
        bool is_pipeline = false;
        /// True for a parameter that another stage holds too.
        std::function<bool(const core::Parameter&)> is_shared;
        parallel::LaneReducerConfig reducer;
        int zero = 0;
        DType compute = DType::f32;
        core::optim::Offload* offload = nullptr;  ///< see parallel::WeightsOptions
    };
    /// Memory for each.
    struct Allocators {
        CachingAllocator& gradients;
        CachingAllocator& weights;
    };
    /// Collective over the data group. Becomes the sink of the chunks' parameters, and gives them
    /// storage.
    StageState(std::span<const core::models::Chunk> chunks, parallel::Communicator& data,
               const Allocators& allocators, Stream& stream, const Options& options);

    // --- gradients: all collective over the data group ---
    void begin_step(const parallel::LanePlan& plan);
    void begin_forward(size_t chunk, int64_t slot) override;
    void end_forward(size_t chunk) override;
    void begin_backward(size_t chunk, int64_t slot) override;
    void end_backward(size_t chunk) override;
    void progress() override;
    /// In place of all of these for one slot, and before it; see LaneReducer. Of a stage without
    /// others.
    void slot_was_launched(int64_t slot);
    void complete_exchanges();
    /// See LaneReducer: the hook gets what this rank owns of one reducer's sums.
    void finish(const parallel::LaneReducer::OwnedHook& before_uses_add = {});
    /// After finish, until the next begin_step; see LaneReducer.
    const std::vector<core::optim::ParameterGradient>& gradients() const { return gradients_; }
    const std::vector<core::optim::ParameterGradient>& owned() const { return owned_; }

    // --- weights; see parallel::Weights ---
    std::vector<core::optim::MasterWeights> masters() const;
    void masters_changed();
    void settle();
    std::vector<core::StateTensor> replicas();

    /// Since the last step began, of all reducers and weights together.
    parallel::LaneReducer::Statistics statistics() const;

  private:
    struct Part {
        size_t chunk = 0;
        bool begins_forward = false, ends_forward = false;
        std::unique_ptr<parallel::Communicator> communicator;  ///< null: the data group itself
        std::unique_ptr<parallel::LaneReducer> reducer;
        std::unique_ptr<parallel::Weights> weights;
        parallel::Weights::Traffic traffic_before = {};  ///< when the step began
    };

    std::vector<Part> parts_;
    bool is_pipeline_;
    parallel::LanePlan plan_;
    int64_t micro_batches_ = 0;  ///< begun in this step
    std::vector<core::optim::ParameterGradient> gradients_, owned_;
};

}  // namespace plinth::launch
