// SPDX-License-Identifier: Apache-2.0
#include "parallel/zero/gathered_weights.h"

#include <exception>

namespace plinth::parallel {

using core::Parameter;
using core::Tensor;

GatheredWeights::GatheredWeights(std::span<Parameter* const> parameters, const BucketLayout& layout,
                                 Communicator& data, CachingAllocator& allocator, Stream& stream,
                                 const WeightsOptions& options)
    : parameters_(parameters.begin(), parameters.end()),
      layout_(layout),
      bytes_(layout, options.compute),
      group_(data.split(0, "weights")),
      stream_(stream),
      in_flight_(static_cast<size_t>(options.in_flight)),
      block_(Tensor::empty({bytes_.bytes() / 4}, DType::f32, allocator)),
      gathers_(layout.buckets()) {
    allocator.set_zero(block_.out().data, block_.out().bytes());  // padding travels
    auto* base = static_cast<std::byte*>(block_.out().data);
    for (Parameter* parameter : parameters_) {
        const BucketLayout::Entry& entry = layout.entries()[layout.entry_of(*parameter, 0)];
        places_[parameter] = {
            entry.unit,
            parameter->weights_at(base + bytes_.byte_at(entry.range.begin),
                                  parameter->read_as(options.compute), allocator.device())};
        parameter->set_source(this);
    }
    const int rank = group_->rank(), ranks = group_->size();
    const auto place = [&](size_t b) {
        return base + bytes_.byte_at(layout_.owned(b, rank, ranks).begin);
    };
    owned_ = std::make_unique<OwnedWeights>(parameters, bytes_, rank, ranks, place, allocator,
                                            options.offload);
}

GatheredWeights::~GatheredWeights() {
    for (Parameter* parameter : parameters_)
        parameter->set_source(nullptr);
    if (std::uncaught_exceptions() > 0) return;
    try {
        settle();
    } catch (...) {  // its peers end too; the group is not used again
    }
}

Bytes GatheredWeights::bytes_at(FlatRange range) {
    auto* base = static_cast<std::byte*>(block_.out().data);
    return {base + bytes_.byte_at(range.begin), static_cast<size_t>(bytes_.bytes_of(range))};
}

void GatheredWeights::start_gather(size_t b) {
    const int rank = group_->rank(), ranks = group_->size();
    std::vector<Bytes> pieces;
    for (int peer = 0; peer < ranks; ++peer)
        pieces.push_back(bytes_at(layout_.owned(b, peer, ranks)));
    const Bytes mine = pieces[static_cast<size_t>(rank)];
    bytes_sent_ += static_cast<int64_t>(mine.size()) * (ranks - 1);
    gathers_[b] = group_->start_all_gather("weights, " + layout_.label(b), mine, pieces);
}

void GatheredWeights::masters_changed() {
    settle();
    owned_->round(stream_);
    std::deque<size_t> under_way;
    // The forward pass begins where the backward pass ends.
    for (size_t b = layout_.buckets(); b-- > 0;) {
        if (!layout_.units()[layout_.unit_of(b)].holds_weights) continue;
        while (under_way.size() >= in_flight_) {
            gathers_[under_way.front()].wait();
            under_way.pop_front();
        }
        start_gather(b);
        under_way.push_back(b);
    }
}

void GatheredWeights::settle() {
    for (size_t b = layout_.buckets(); b-- > 0;)
        gathers_[b].wait();
}

const Tensor& GatheredWeights::acquire(Parameter& parameter, DType dtype) {
    const auto found = places_.find(&parameter);
    CHECK(found != places_.end(), "{}: not among these weights", parameter.name());
    const auto& [unit, weights] = found->second;
    CHECK(weights.dtype() == dtype, "{}: wanted as {}, held as {}", parameter.name(),
          name_of(dtype), name_of(weights.dtype()));
    for (size_t b = layout_.units()[unit].first_bucket; b < layout_.units()[unit].end_bucket; ++b)
        gathers_[b].wait();
    return weights;
}

std::vector<core::StateTensor> GatheredWeights::replicas() {
    settle();
    std::vector<core::StateTensor> replicas;
    for (Parameter* parameter : parameters_) {
        Tensor& weights = places_.at(parameter).weights;
        core::optim::append_state(replicas, parameter->name(),
                                  core::optim::ParameterRange::whole(*parameter), weights.out());
    }
    return replicas;
}

}  // namespace plinth::parallel
