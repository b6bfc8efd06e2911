// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "core/optim/offload.h"
#include "core/optim/parameter_storage.h"
#include "kernels/runtime/stream.h"
#include "parallel/buckets.h"
#include "parallel/comm/communicator.h"

namespace plinth::parallel {

/// Where the ranks of a data group have the weights of their parameters, by ZeRO stage (Rajbhandari
/// et al. 2020). Cuts are those of the gradients' BucketLayout: a rank updates what it sums.
class Weights {
  public:
    virtual ~Weights() = default;

    /// The fp32 weights that this rank updates and saves, in the order of the parameters: all of
    /// them, or what it owns. Whoever writes to them calls masters_changed.
    virtual std::span<const core::optim::MasterWeights> masters() const = 0;
    /// Collective. From here on operations read what the masters hold now.
    virtual void masters_changed() = 0;
    /// Completes the collectives that this rank has started: before masters change.
    virtual void settle() {}
    /// What all ranks of the group hold alike.
    virtual std::vector<core::StateTensor> replicas() = 0;

    /// Around the passes of each micro-batch. The first `working` ranks of the group make one, the
    /// others call join_micro_batch meanwhile, and settle once that cannot keep anyone waiting.
    virtual void begin_micro_batch(int working) { (void)working; }
    virtual void end_micro_batch() {}
    virtual void join_micro_batch(int working) { (void)working; }

    struct Traffic {
        int64_t bytes_sent = 0;  ///< to other ranks
        double seconds_waiting = 0.0;
    };
    /// So far.
    virtual Traffic traffic() const { return {}; }
};

/// What make_weights needs to know of a rank.
struct WeightsOptions {
    int zero = 0;                ///< stage
    DType compute = DType::f32;  ///< in which operations read matrices
    int in_flight = 32;          ///< gathers of buckets at once, where they are waited for later
    int ahead = 2;               ///< stage 3: units gathered before they are needed
    /// Masters are in its memory, and what operations read is apart; null: where weights are.
    core::optim::Offload* offload = nullptr;
    /// Stage 3: runs before each gather in a pass; see LaneReducer::start_finished.
    std::function<void()> before_gather = {};
};

/// Gives the parameters storage, or a source of weights, in the layout of their gradients, which
/// must outlive it, like `data`. Collective over the data group, of which it takes a copy.
std::unique_ptr<Weights> make_weights(std::span<core::Parameter* const> parameters,
                                      const BucketLayout& layout, Communicator& data,
                                      CachingAllocator& allocator, Stream& stream,
                                      WeightsOptions options);

}  // namespace plinth::parallel
