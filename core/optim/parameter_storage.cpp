// SPDX-License-Identifier: Apache-2.0
#include "core/optim/parameter_storage.h"

#include <algorithm>

namespace plinth::core::optim {

namespace {
int64_t aligned(int64_t elements) {
    return (elements + FlatTensors::alignment - 1) / FlatTensors::alignment *
           FlatTensors::alignment;
}
}  // namespace

std::vector<ParameterRange> ParameterRange::whole(std::span<Parameter* const> parameters) {
    std::vector<ParameterRange> ranges;
    for (Parameter* parameter : parameters)
        ranges.push_back(whole(*parameter));
    return ranges;
}

FlatTensors::FlatTensors(std::vector<ParameterRange> ranges, bool has_room,
                         CachingAllocator& allocator, DType dtype, Stream* zeroing)
    : ranges_(std::move(ranges)) {
    const auto room = [&](const ParameterRange& range) {
        return aligned(has_room ? range.parameter->padded_shape().elements() : range.elements());
    };
    int64_t total = 0;
    for (const ParameterRange& range : ranges_)
        total += room(range);
    block_ = Tensor::empty({total}, dtype, allocator);
    const View all = block_.out();
    if (zeroing && all.device.type == DeviceType::cpu)
        zero_host_memory(*zeroing, all.data, all.bytes());
    else
        allocator.set_zero(all.data, all.bytes());
    int64_t offset = 0;
    for (const ParameterRange& range : ranges_) {
        const Tensor flat = block_.rows(offset, offset + range.elements());
        tensors_.push_back(range.is_whole() ? flat.reshape(range.parameter->local_shape()) : flat);
        offset += room(range);
    }
}

std::vector<Shard> shards_of(const ParameterRange& range) {
    std::vector<Shard> shards;
    int64_t first = 0;  // of the box, in the parameter's local memory
    for (Shard box : range.parameter->boxes()) {
        const int64_t last = first + box.elements();
        box.begin = std::max(range.begin, first) - first;
        box.end = std::min(range.end, last) - first;
        first = last;
        if (box.begin < box.end) shards.push_back(box);
    }
    return shards;
}

void append_state(std::vector<StateTensor>& state, const std::string& name,
                  const ParameterRange& range, View values) {
    auto* bytes = static_cast<std::byte*>(values.data);
    for (const Shard& shard : shards_of(range)) {
        state.push_back({.name = name,
                         .dtype = values.dtype,
                         .shard = shard,
                         .data = bytes,
                         .device = values.device});
        bytes += state.back().bytes();
    }
}

std::vector<StateTensor> FlatTensors::state(const std::string& prefix) {
    std::vector<StateTensor> state;
    for (size_t i = 0; i < tensors_.size(); ++i)
        append_state(state, prefix + ranges_[i].parameter->name(), ranges_[i], tensors_[i].out());
    return state;
}

std::vector<MasterWeights> masters_of(std::span<Parameter* const> parameters) {
    std::vector<MasterWeights> masters;
    for (Parameter* parameter : parameters)
        masters.push_back({ParameterRange::whole(*parameter), parameter->master()});
    return masters;
}

FlatTensors materialize(std::span<Parameter* const> parameters, CachingAllocator& allocator) {
    FlatTensors masters = FlatTensors::with_room(parameters, allocator);
    for (size_t i = 0; i < masters.size(); ++i)
        parameters[i]->materialize(masters[i]);
    return masters;
}

}  // namespace plinth::core::optim
