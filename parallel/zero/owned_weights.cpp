// SPDX-License-Identifier: Apache-2.0
#include "parallel/zero/owned_weights.h"

#include <algorithm>

#include "kernels/cast.h"

namespace plinth::parallel {

using core::Tensor;
using core::optim::MasterWeights;
using core::optim::ParameterRange;

WeightLayout::WeightLayout(const BucketLayout& layout, DType compute)
    : layout_(layout), compute_(compute) {
    int64_t bytes = 0;
    const auto& entries = layout.entries();
    for (size_t e = 0; e < entries.size(); ++e) {
        offsets_.push_back(bytes);
        if (entries[e].use != 0) continue;
        const int64_t end = e + 1 < entries.size() ? entries[e + 1].range.begin : layout.elements();
        bytes += (end - entries[e].range.begin) *
                 static_cast<int64_t>(size_of(entries[e].parameter->read_as(compute)));
    }
}

int64_t WeightLayout::byte_at(int64_t flat) const {
    const auto& entries = layout_.entries();
    const auto after = std::upper_bound(
        entries.begin(), entries.end(), flat,
        [](int64_t at, const BucketLayout::Entry& entry) { return at < entry.range.begin; });
    const auto e = static_cast<size_t>(after - entries.begin() - 1);
    if (entries[e].use != 0) return offsets_[e];
    return offsets_[e] + (flat - entries[e].range.begin) *
                             static_cast<int64_t>(size_of(entries[e].parameter->read_as(compute_)));
}

OwnedWeights::OwnedWeights(std::span<core::Parameter* const> parameters, const WeightLayout& layout,
                           int rank, int ranks, FunctionRef<std::byte*(size_t bucket)> place,
                           CachingAllocator& allocator, core::optim::Offload* offload)
    : offload_(offload) {
    const BucketLayout& buckets = layout.buckets();
    std::vector<ParameterRange> wide;
    for (const core::Parameter* parameter : parameters) {
        const DType read = parameter->read_as(layout.compute());
        for (const BucketLayout::Piece& piece : buckets.owned(*parameter, 0, rank, ranks)) {
            const int64_t first = buckets.owned(piece.bucket, rank, ranks).begin;
            std::byte* at = place(piece.bucket) + layout.bytes_of({first, piece.flat.begin});
            Tensor copy = Tensor::borrow(at, {piece.range.elements()}, read, allocator.device());
            const bool is_apart = offload || read != DType::f32;
            masters_.push_back({piece.range, is_apart ? Tensor{} : copy});
            copies_.push_back(is_apart ? copy : Tensor{});
            if (is_apart) wide.push_back(piece.range);
        }
    }
    wide_ = std::make_unique<core::optim::FlatTensors>(
        offload ? offload->make_states(std::move(wide))
                : core::optim::FlatTensors(std::move(wide), allocator));
    size_t next = 0;
    for (MasterWeights& master : masters_)
        if (!master.weights.defined()) master.weights = (*wide_)[next++];
}

void OwnedWeights::round(Stream& stream) {
    if (offload_) return offload_->send(masters_, copies_);
    for (size_t i = 0; i < masters_.size(); ++i)
        if (copies_[i].defined()) kernels::cast(copies_[i].out(), masters_[i].weights.in(), stream);
}

}  // namespace plinth::parallel
