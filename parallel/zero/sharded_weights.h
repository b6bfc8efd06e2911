// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <unordered_map>
#include <vector>

#include "parallel/zero/owned_weights.h"
#include "parallel/zero/weights.h"

namespace plinth::parallel {

/// ZeRO 3: a rank keeps only what it owns of the weights. The unit of a parameter is gathered when
/// an operation acquires it, or before that, and given back behind it, in the forward and in the
/// backward pass.
///
/// Which units have memory follows from the order of acquires alone, so that all ranks make the
/// same gathers in the same order. That order is learned in the first micro-batch. From then on the
/// units that come next are gathered ahead; in passes of another order (an evaluation behind its
/// forward pass, the sampling of text) a unit is gathered when it is acquired, and kept while it is
/// among the last few that were.
///
/// Memory: what this rank owns, in the dtype in which operations read it (and in fp32 masters where
/// that is bf16), and ahead + 1 units.
class ShardedWeights final : public Weights, public core::WeightSource {
  public:
    ShardedWeights(std::span<core::Parameter* const> parameters, const BucketLayout& layout,
                   Communicator& data, CachingAllocator& allocator, Stream& stream,
                   WeightsOptions options);
    ~ShardedWeights() override;

    std::span<const core::optim::MasterWeights> masters() const override {
        return owned_->masters();
    }
    void masters_changed() override;
    void settle() override;
    std::vector<core::StateTensor> replicas() override { return {}; }
    Traffic traffic() const override { return {bytes_sent_, group_->seconds_waited()}; }

    void begin_micro_batch(int working) override;
    void end_micro_batch() override;
    void join_micro_batch(int working) override;

    const core::Tensor& acquire(core::Parameter& parameter, DType dtype) override;
    void release(core::Parameter& parameter) override;

  private:
    struct Place {
        size_t unit = 0;
        core::Tensor weights;  ///< in the memory of the unit, while it has some
    };
    struct Unit {
        bool wanted = false;  ///< gathered, or being gathered, and not given back
        int readers = 0;
        core::Tensor memory;
        std::vector<Pending> gathers;
    };
    struct Event {
        size_t unit = 0;
        bool is_acquire = true;
    };

    Place& place_of(const core::Parameter& parameter);
    bool is_working() const { return group_->rank() < working_; }
    std::byte* shard_at(size_t bucket);
    void on(const Event& event);
    void move_to(size_t unit);
    void find_position(size_t unit);
    std::vector<size_t> units_to_keep() const;
    void start_gather(size_t unit);
    void give_back(Unit& unit);
    void give_all_back();

    const BucketLayout& layout_;
    WeightLayout bytes_;
    std::unique_ptr<Communicator> group_;
    CachingAllocator& allocator_;
    Stream& stream_;
    WeightsOptions options_;
    int working_;
    core::Tensor shard_;             ///< owned ranges, one after the other, as they are read
    std::vector<int64_t> shard_at_;  ///< by bucket, bytes
    std::unordered_map<const core::Parameter*, Place> places_;
    std::vector<std::vector<core::Parameter*>> parameters_of_;  ///< by unit
    std::unique_ptr<OwnedWeights> owned_;
    std::vector<Unit> units_;

    bool recording_ = false;
    std::vector<Event> events_;       ///< of a micro-batch; empty before the first one ended
    std::vector<size_t> order_;       ///< units in the order of their acquires, neighbours once
    std::optional<size_t> position_;  ///< in order_, while acquires follow it
    std::vector<size_t> recent_;      ///< the last units that were acquired, newest first
    std::vector<Pending> joined_;     ///< sends to working ranks
    int64_t bytes_sent_ = 0;
};

}  // namespace plinth::parallel
