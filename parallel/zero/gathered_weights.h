// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <deque>
#include <memory>
#include <unordered_map>
#include <vector>

#include "parallel/zero/owned_weights.h"
#include "parallel/zero/weights.h"

namespace plinth::parallel {

/// ZeRO 1 and 2: every rank has all weights in the dtype in which operations read them, but updates
/// only what it owns, and the ranks gather the rest from each other. The gathers begin with what
/// the forward pass needs first and go on beside it: an operation waits for the unit of its
/// parameter.
///
/// Memory a parameter: 4 bytes in fp32; in bf16 2, and 4 / ranks of masters.
class GatheredWeights final : public Weights, public core::WeightSource {
  public:
    GatheredWeights(std::span<core::Parameter* const> parameters, const BucketLayout& layout,
                    Communicator& data, CachingAllocator& allocator, Stream& stream,
                    const WeightsOptions& options);
    ~GatheredWeights() override;

    std::span<const core::optim::MasterWeights> masters() const override {
        return owned_->masters();
    }
    void masters_changed() override;
    void settle() override;
    std::vector<core::StateTensor> replicas() override;
    Traffic traffic() const override { return {bytes_sent_, group_->seconds_waited()}; }

    const core::Tensor& acquire(core::Parameter& parameter, DType dtype) override;
    void release(core::Parameter&) override {}

  private:
    struct Place {
        size_t unit = 0;
        core::Tensor weights;
    };
    Bytes bytes_at(FlatRange range);
    void start_gather(size_t bucket);

    std::vector<core::Parameter*> parameters_;
    const BucketLayout& layout_;
    WeightLayout bytes_;
    std::unique_ptr<Communicator> group_;
    Stream& stream_;
    size_t in_flight_;
    core::Tensor block_;  ///< all weights; its dtype is only that of its size
    std::unordered_map<const core::Parameter*, Place> places_;
    std::unique_ptr<OwnedWeights> owned_;
    std::vector<Pending> gathers_;  ///< by bucket
    int64_t bytes_sent_ = 0;
};

}  // namespace plinth::parallel
