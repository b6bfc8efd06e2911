// SPDX-License-Identifier: Apache-2.0
#include "parallel/zero/weights.h"

#include "parallel/zero/gathered_weights.h"
#include "parallel/zero/sharded_weights.h"

namespace plinth::parallel {

namespace {

/// Stage 0: every rank has and updates all weights.
class WholeWeights final : public Weights {
  public:
    WholeWeights(std::span<core::Parameter* const> parameters, CachingAllocator& allocator)
        : parameters_(parameters.begin(), parameters.end()),
          storage_(core::optim::materialize(parameters, allocator)),
          masters_(core::optim::masters_of(parameters)) {}

    std::span<const core::optim::MasterWeights> masters() const override { return masters_; }
    void masters_changed() override {
        for (core::Parameter* parameter : parameters_)
            parameter->changed();
    }
    std::vector<core::StateTensor> replicas() override { return storage_.state(""); }

  private:
    std::vector<core::Parameter*> parameters_;
    core::optim::FlatTensors storage_;
    std::vector<core::optim::MasterWeights> masters_;
};

}  // namespace

std::unique_ptr<Weights> make_weights(std::span<core::Parameter* const> parameters,
                                      const BucketLayout& layout, Communicator& data,
                                      CachingAllocator& allocator, Stream& stream,
                                      WeightsOptions options) {
    if (options.zero == 0) return std::make_unique<WholeWeights>(parameters, allocator);
    if (options.zero < 3)
        return std::make_unique<GatheredWeights>(parameters, layout, data, allocator, stream,
                                                 options);
    return std::make_unique<ShardedWeights>(parameters, layout, data, allocator, stream,
                                            std::move(options));
}

}  // namespace plinth::parallel
