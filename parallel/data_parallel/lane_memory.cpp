// SPDX-License-Identifier: Apache-2.0
#include "parallel/data_parallel/lane_memory.h"

#include "kernels/add.h"
#include "parallel/comm/view_bytes.h"

namespace plinth::parallel {

using core::Tensor;

LaneMemory::LaneMemory(const BucketLayout& layout, bool keeps, CachingAllocator& allocator,
                       Stream& stream)
    : layout_(layout), allocator_(allocator), stream_(stream), units_(layout.units().size()) {
    if (!keeps) return;
    buffer_ = Tensor::empty({layout.elements()}, DType::f32, allocator);
    kernels::fill(buffer_.out(), 0.0f, stream);
    for (size_t u = 0; u < units_.size(); ++u)
        units_[u] = buffer_.rows(layout.units()[u].range.begin, layout.units()[u].range.end);
}

void LaneMemory::take(size_t u) {
    const BucketLayout::Unit& unit = layout_.units()[u];
    units_[u] = Tensor::empty({unit.range.elements()}, DType::f32, allocator_);
    for (size_t e = unit.first_entry; e < unit.end_entry; ++e) {
        const int64_t end = layout_.entries()[e].range.end;
        const int64_t next =
            e + 1 < unit.end_entry ? layout_.entries()[e + 1].range.begin : unit.range.end;
        if (end < next) kernels::fill(at(u, {end, next}), 0.0f, stream_);
    }
}

View LaneMemory::at(size_t u, FlatRange range) {
    CHECK(has(u), "unit {} of the gradients has no memory", u);
    return part_of(units_[u].out(), range.begin - layout_.units()[u].range.begin, range.elements());
}

}  // namespace plinth::parallel
