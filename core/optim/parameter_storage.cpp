// SPDX-License-Identifier: Apache-2.0
#include "core/optim/parameter_storage.h"

#include <cstring>

namespace plinth::core::optim {

namespace {
int64_t aligned(int64_t elements) {
    return (elements + FlatTensors::alignment - 1) / FlatTensors::alignment *
           FlatTensors::alignment;
}
}  // namespace

FlatTensors::FlatTensors(std::span<Parameter* const> parameters, CachingAllocator& allocator)
    : parameters_(parameters.begin(), parameters.end()) {
    int64_t total = 0;
    for (const Parameter* parameter : parameters_)
        total += aligned(parameter->local_elements());
    block_ = Tensor::empty({total}, DType::f32, allocator);
    std::memset(block_.data<float>(), 0, static_cast<size_t>(total) * sizeof(float));
    int64_t offset = 0;
    for (const Parameter* parameter : parameters_) {
        const int64_t elements = parameter->local_elements();
        tensors_.push_back(
            block_.rows(offset, offset + elements).reshape(parameter->local_shape()));
        offset += aligned(elements);
    }
}

void append_state(std::vector<StateTensor>& state, const std::string& name,
                  const Parameter& parameter, float* data) {
    for (const Shard& box : parameter.boxes()) {
        state.push_back({.name = name, .dtype = DType::f32, .shard = box, .data = data});
        data += box.elements();
    }
}

std::vector<StateTensor> FlatTensors::state(const std::string& prefix) {
    std::vector<StateTensor> state;
    for (size_t i = 0; i < tensors_.size(); ++i)
        append_state(state, prefix + parameters_[i]->name(), *parameters_[i],
                     tensors_[i].data<float>());
    return state;
}

FlatTensors materialize(std::span<Parameter* const> parameters, CachingAllocator& allocator) {
    FlatTensors masters(parameters, allocator);
    for (size_t i = 0; i < masters.size(); ++i)
        parameters[i]->materialize(masters[i]);
    return masters;
}

}  // namespace plinth::core::optim
