// SPDX-License-Identifier: Apache-2.0
#include "parallel/zero/weights.h"

#include <unordered_map>

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

/// Stage 0 with offloaded masters: every rank updates all of them, and operations read copies.
class OffloadedWeights final : public Weights, public core::WeightSource {
  public:
    OffloadedWeights(std::span<core::Parameter* const> parameters, const BucketLayout& layout,
                     CachingAllocator& allocator, const WeightsOptions& options)
        : offload_(*options.offload),
          storage_(offload_.make_states(core::optim::ParameterRange::whole(parameters))),
          block_(core::Tensor::empty({WeightLayout(layout, options.compute).bytes() / 4},
                                     DType::f32, allocator)) {
        const WeightLayout bytes(layout, options.compute);
        allocator.set_zero(block_.out().data, block_.out().bytes());  // rows behind a table's
        auto* base = static_cast<std::byte*>(block_.out().data);
        for (size_t i = 0; i < storage_.size(); ++i) {
            core::Parameter& parameter = *parameters[i];
            const int64_t begin = layout.entries()[layout.entry_of(parameter, 0)].range.begin;
            masters_.push_back({storage_.range(i), storage_[i]});
            copies_.push_back(parameter.weights_at(base + bytes.byte_at(begin),
                                                   parameter.read_as(options.compute),
                                                   allocator.device()));
            index_[&parameter] = i;
            parameter.set_source(this);
        }
    }
    ~OffloadedWeights() override {
        for (const auto& master : masters_)
            master.range.parameter->set_source(nullptr);
    }

    std::span<const core::optim::MasterWeights> masters() const override { return masters_; }
    void masters_changed() override {
        offload_.send(masters_, copies_);
        for (const auto& master : masters_)
            master.range.parameter->changed();
    }
    std::vector<core::StateTensor> replicas() override {
        std::vector<core::StateTensor> replicas = storage_.state("");
        for (size_t i = 0; i < copies_.size(); ++i)
            core::optim::append_state(replicas, masters_[i].range.parameter->name() + " as read",
                                      masters_[i].range, copies_[i].out());
        return replicas;
    }

    const core::Tensor& acquire(core::Parameter& parameter, DType dtype) override {
        const auto found = index_.find(&parameter);
        CHECK(found != index_.end(), "{}: not among these weights", parameter.name());
        const core::Tensor& copy = copies_[found->second];
        CHECK(copy.dtype() == dtype, "{}: wanted as {}, held as {}", parameter.name(),
              name_of(dtype), name_of(copy.dtype()));
        return copy;
    }
    void release(core::Parameter&) override {}

  private:
    core::optim::Offload& offload_;
    core::optim::FlatTensors storage_;  ///< masters
    core::Tensor block_;                ///< copies, as WeightLayout orders them
    std::vector<core::optim::MasterWeights> masters_;
    std::vector<core::Tensor> copies_;
    std::unordered_map<const core::Parameter*, size_t> index_;
};

}  // namespace

std::unique_ptr<Weights> make_weights(std::span<core::Parameter* const> parameters,
                                      const BucketLayout& layout, Communicator& data,
                                      CachingAllocator& allocator, Stream& stream,
                                      WeightsOptions options) {
    if (options.zero == 0 && options.offload)
        return std::make_unique<OffloadedWeights>(parameters, layout, allocator, options);
    if (options.zero == 0) return std::make_unique<WholeWeights>(parameters, allocator);
    if (options.zero < 3)
        return std::make_unique<GatheredWeights>(parameters, layout, data, allocator, stream,
                                                 options);
    return std::make_unique<ShardedWeights>(parameters, layout, data, allocator, stream,
                                            std::move(options));
}

}  // namespace plinth::parallel
