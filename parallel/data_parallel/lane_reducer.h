// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <deque>
#include <span>
#include <vector>

#include "core/optim/gradients.h"
#include "core/tensor/tensor.h"
#include "kernels/runtime/stream.h"
#include "parallel/buckets.h"
#include "parallel/comm/communicator.h"
#include "parallel/data_parallel/lane_memory.h"
#include "parallel/data_parallel/lanes.h"

namespace plinth::parallel {

/// What a rank has of the gradients.
enum class GradientShare {
    whole,       ///< after a step the sum of all
    totals,      ///< after a step the sum of what it owns; while it runs, a whole lane
    owned_only,  ///< a unit of a lane only while it is filled and exchanged; needs lanes of one
                 ///< slot
};

struct LaneReducerConfig {
    int64_t bucket_bytes = int64_t{1} << 20;  ///< of fp32; see benchmarks/RESULTS.md
    DType wire = DType::f32;  ///< f32, or bf16: every lane is rounded, also at one rank
    int in_flight = 8;        ///< exchanges at once: bounds the receive memory
    GradientShare share = GradientShare::whole;
};

/// The gradients of one step, summed over all micro-batch slots of all ranks by ordered lanes
/// (LanePlan, docs/numerics.md): the result has the same bits for every number of ranks.
///
/// A step, on every rank: begin_step; for each of the rank's slots begin_slot, backward pass with
/// `progress` between its nodes, end_slot; finish. A bucket leaves for its owners as soon as the
/// last weight gradient of the last slot of a lane is in it, so that the exchange runs beside the
/// rest of the backward pass. Nothing else may use the communicator between begin_step and finish.
///
/// Memory: one fp32 buffer of all gradients, or the units under way; the totals of what this rank
/// owns beside it if a rank computes more than one lane, or has no such buffer; `in_flight`
/// buckets.
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
    /// The same in the lane's own memory: overwritten by the first slot of a lane, added to by
    /// later ones.
    void accumulate(core::Parameter& parameter, int use,
                    FunctionRef<void(View sum, bool accumulates)> product) override;
    void end_slot();
    /// In place of begin_slot, a backward pass and end_slot, where a graph of an earlier slot of
    /// the same kind gives this slot's work: the first of its lane or not, the last or not, in the
    /// first round or not, of one round or several. Of a rank beside others no slot that ends a
    /// lane: its gradients leave during the backward pass.
    void slot_was_launched(int64_t slot);
    /// Before a slot whose work is captured, or comes from a graph: completes what is under way,
    /// which captured work must not.
    void complete_exchanges();
    /// Moves exchanges along; cheap when none is under way.
    void progress();
    /// Starts every exchange whose bucket is final, after completing older ones where too many are
    /// under way. Called before a wait for a collective of another group of the same ranks: so all
    /// ranks start all collectives in one order, and none waits for one that a peer has put off.
    void start_finished();
    /// Gets what this rank owns of the sums.
    using OwnedHook = std::function<void(std::span<const core::optim::ParameterGradient>)>;
    /// Completes the sum. The hook runs before the others get what this rank owns, and while each
    /// use of a parameter is apart, as it is where two stages hold it: a sum over another axis
    /// belongs there.
    void finish(const OwnedHook& before_uses_add = {});

    /// After finish, until the next begin_step, in the order of the parameters: each of them once,
    /// or what this rank owns of them.
    const std::vector<core::optim::ParameterGradient>& gradients() const {
        return config_.share == GradientShare::whole ? gradients_ : owned_;
    }
    /// What this rank owns: every element is in one rank's list.
    const std::vector<core::optim::ParameterGradient>& owned() const { return owned_; }

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
    bool totals_are_in_lane() const { return lane_.keeps() && plan_.rounds() == 1; }
    View lane_at(size_t bucket, FlatRange range) { return lane_.at_bucket(bucket, range); }
    size_t begin_gradient(core::Parameter& parameter, int use);
    void end_gradient(size_t entry);
    View lane_of(size_t entry);
    View scratch_for(size_t entry);
    View total_of(size_t bucket);
    View total_of(const BucketLayout::Piece& piece);
    void prepare_totals();
    void take_unit(size_t unit, int64_t round);
    void clear_unused_uses();
    void count_missing();
    void start_final_buckets();
    void start_all_buckets(int64_t round);
    void make_room();
    void start_exchange(size_t bucket, int64_t round);
    void wait_until_free(size_t bucket);
    void complete(size_t index);
    void fold(Exchange& exchange);
    std::vector<View> lane_pieces(Exchange& exchange);
    void append_owned(std::vector<core::optim::ParameterGradient>& list, core::Parameter& parameter,
                      int use);
    std::vector<core::optim::ParameterGradient> owned_by_use();
    void add_uses();
    void gather_totals();
    void list_owned();
    void list_gradients();

    Communicator& communicator_;
    CachingAllocator& allocator_;
    Stream& stream_;
    LaneReducerConfig config_;
    std::vector<core::Parameter*> parameters_;
    BucketLayout layout_;
    int rank_;
    int ranks_;
    LaneMemory lane_;  ///< the running lane; at the end the gradients
    Tensor totals_;    ///< of the owned ranges, one after the other
    /// A gradient that `add` finishes on its way into the lane. Where a larger one comes later the
    /// smaller memory stays: a graph may know its address.
    std::vector<Tensor> scratch_;
    std::vector<int64_t> totals_at_;

    LanePlan plan_;
    std::vector<int64_t> slots_;
    size_t next_slot_ = 0;
    bool in_slot_ = false;
    bool first_of_lane_ = false;
    bool last_of_lane_ = false;
    int64_t round_ = 0;
    std::vector<int> given_;        ///< by entry: gradients in this slot
    std::vector<char> is_added_;    ///< by entry: came by `add`
    std::vector<int> learned_;      ///< by entry: gradients a slot; one each is a guess before
    bool knows_uses_ = false;       ///< the first slot has ended
    std::vector<int64_t> missing_;  ///< by bucket: uses still to come in the last slot of a lane
    size_t next_start_ = 0;         ///< buckets leave in order: every rank makes the same calls
    std::deque<Exchange> exchanges_;
    /// Of a unit with memory of its own: whose lane it holds, and buckets not yet exchanged.
    struct Taken {
        int64_t round = 0;
        size_t buckets = 0;
    };
    std::vector<Taken> taken_;

    std::vector<core::optim::ParameterGradient> gradients_;
    std::vector<core::optim::ParameterGradient> owned_;
    Statistics statistics_;
    double waited_before_ = 0.0;
};

}  // namespace plinth::parallel
