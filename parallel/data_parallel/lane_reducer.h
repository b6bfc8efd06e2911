// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <deque>
#include <span>
#include <vector>

#include "core/optim/gradients.h"
#include "core/tensor/tensor.h"
#include "kernels/runtime/stream.h"
#include "parallel/comm/communicator.h"
#include "parallel/data_parallel/buckets.h"
#include "parallel/data_parallel/lanes.h"

namespace plinth::parallel {

struct LaneReducerConfig {
    int64_t bucket_bytes = int64_t{1} << 20;  ///< of fp32; see benchmarks/RESULTS.md
    DType wire = DType::f32;  ///< f32, or bf16: every lane is rounded, also at one rank
    int in_flight = 8;        ///< exchanges at once: bounds the receive memory
};

/// The gradients of one step, summed over all micro-batch slots of all ranks by ordered lanes
/// (LanePlan, docs/numerics.md): the result has the same bits for every number of ranks.
///
/// A step, on every rank: begin_step; for each of the rank's slots begin_slot, backward pass with
/// `progress` between its nodes, end_slot; finish. A bucket leaves for its owners as soon as the
/// last weight gradient of the last slot of a lane is in it, so that the exchange runs beside the
/// rest of the backward pass. Nothing else may use the communicator between begin_step and finish.
///
/// Memory: one fp32 buffer of all gradients; the totals of this rank's share beside it if a rank
/// computes more than one lane; `in_flight` buckets.
class LaneReducer final : public core::GradientSink {
  public:
    /// Becomes the sink of the parameters, which, like the communicator, must outlive it.
    LaneReducer(std::span<core::Parameter* const> parameters, Communicator& communicator,
                CachingAllocator& allocator, Stream& stream, const LaneReducerConfig& config = {});
    ~LaneReducer() override;

    void begin_step(const LanePlan& plan);
    /// The next of plan.slots_of(rank).
    void begin_slot(int64_t slot);
    /// A use gives one gradient a slot: one that gives a second, or that comes in some slots only,
    /// is an internal error that names it.
    void add(core::Parameter& parameter, int use, FunctionRef<void(View dweight)> product) override;
    void end_slot();
    /// Moves exchanges along; cheap when none is under way.
    void progress();
    /// Completes the sum on every rank.
    void finish();

    /// After finish, until the next begin_step: each parameter once, in the order given.
    const std::vector<core::optim::ParameterGradient>& gradients() const { return gradients_; }

    /// Of the last step, on this rank.
    struct Statistics {
        int64_t bytes = 0;  ///< of lane gradients whose exchange this rank took part in
        int64_t bytes_hidden =
            0;  ///< of those, exchanged and summed before its backward passes ended
        int64_t bytes_sent = 0;  ///< to other ranks, the final gather included
        double seconds_waiting = 0.0;
        double hidden_share() const {
            return bytes == 0 ? 1.0
                              : static_cast<double>(bytes_hidden) / static_cast<double>(bytes);
        }
    };
    const Statistics& statistics() const { return statistics_; }
    const BucketLayout& layout() const { return layout_; }

  private:
    using Tensor = core::Tensor;

    /// One bucket of one round on its way to the owners.
    struct Exchange {
        size_t bucket = 0;
        int64_t round = 0;
        Tensor staged;    ///< the lane's bucket in the wire dtype, where that is not fp32
        Tensor received;  ///< pieces of the other ranks, one after the other in rank order
        Pending pending;
    };

    bool has_lane(int64_t round) const { return plan_.lane_of(rank_, round).has_value(); }
    bool totals_are_in_lane() const { return plan_.rounds() == 1; }
    View elements(Tensor& buffer, FlatRange range);
    View total_of(size_t bucket);
    void prepare_totals();
    void clear_unused_uses();
    void count_missing();
    void start_final_buckets();
    void start_all_buckets(int64_t round);
    void start_exchange(size_t bucket, int64_t round);
    void wait_until_free(size_t bucket);
    void complete(size_t index);
    void fold(Exchange& exchange);
    std::vector<View> lane_pieces(Exchange& exchange);
    void gather_totals();
    void add_uses();

    Communicator& communicator_;
    CachingAllocator& allocator_;
    Stream& stream_;
    LaneReducerConfig config_;
    std::vector<core::Parameter*> parameters_;
    BucketLayout layout_;
    int rank_;
    int ranks_;
    Tensor lane_;     ///< the running lane; at the end the gradients
    Tensor totals_;   ///< of the owned ranges, one after the other
    Tensor scratch_;  ///< a finished product on its way into the lane
    std::vector<int64_t> totals_at_;

    LanePlan plan_;
    std::vector<int64_t> slots_;
    size_t next_slot_ = 0;
    bool in_slot_ = false;
    bool first_of_lane_ = false;
    bool last_of_lane_ = false;
    int64_t round_ = 0;
    std::vector<int> given_;    ///< by entry: gradients in this slot
    std::vector<int> learned_;  ///< by entry: gradients a slot; empty before the first one ended
    std::vector<int64_t> missing_;  ///< by bucket: uses still to come in the last slot of a lane
    size_t next_start_ = 0;         ///< buckets leave in order: every rank makes the same calls
    std::deque<Exchange> exchanges_;

    std::vector<core::optim::ParameterGradient> gradients_;
    Statistics statistics_;
    double waited_before_ = 0.0;
};

}  // namespace plinth::parallel
