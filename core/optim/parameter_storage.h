// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <string>
#include <vector>

#include "core/autograd/parameter.h"

namespace plinth::core::optim {

/// Elements [begin, end) of a parameter's local memory (the stack of its boxes, row-major).
struct ParameterRange {
    Parameter* parameter = nullptr;
    int64_t begin = 0;
    int64_t end = 0;

    static ParameterRange whole(Parameter& parameter) {
        return {&parameter, 0, parameter.local_elements()};
    }
    static std::vector<ParameterRange> whole(std::span<Parameter* const> parameters);
    int64_t elements() const { return end - begin; }
    bool is_whole() const { return begin == 0 && end == parameter->local_elements(); }
};

/// One tensor a range, in one block of memory, each beginning on a 1,024-element boundary: where
/// optimizer shards are cut.
class FlatTensors {
  public:
    static constexpr int64_t alignment = 1024;

    /// Zeroed, padding included, where the memory is the host's by the threads of `zeroing` if
    /// there is one. Keeps references to the parameters.
    FlatTensors(std::vector<ParameterRange> ranges, CachingAllocator& allocator,
                DType dtype = DType::f32, Stream* zeroing = nullptr)
        : FlatTensors(std::move(ranges), /*has_room=*/false, allocator, dtype, zeroing) {}
    FlatTensors(std::span<Parameter* const> parameters, CachingAllocator& allocator)
        : FlatTensors(ParameterRange::whole(parameters), allocator) {}

    size_t size() const { return tensors_.size(); }
    const ParameterRange& range(size_t i) const { return ranges_[i]; }
    /// Of the parameter's local shape where the range is all of it, else flat.
    Tensor& operator[](size_t i) { return tensors_[i]; }
    /// As training state named prefix + parameter name.
    std::vector<StateTensor> state(const std::string& prefix);

    /// Of whole parameters, behind each of which are zeros up to its padded shape.
    static FlatTensors with_room(std::span<Parameter* const> parameters,
                                 CachingAllocator& allocator) {
        return {ParameterRange::whole(parameters), /*has_room=*/true, allocator, DType::f32,
                nullptr};
    }

  private:
    FlatTensors(std::vector<ParameterRange> ranges, bool has_room, CachingAllocator& allocator,
                DType dtype, Stream* zeroing);

    std::vector<ParameterRange> ranges_;
    Tensor block_;
    std::vector<Tensor> tensors_;
};

/// The fp32 weights of a range, which an optimizer updates.
struct MasterWeights {
    ParameterRange range;
    Tensor weights;
};

/// Of parameters that have their own storage: whole ones.
std::vector<MasterWeights> masters_of(std::span<Parameter* const> parameters);

/// What the range has of each box that it meets, in the order of its elements.
std::vector<Shard> shards_of(const ParameterRange& range);

/// One piece of state for each box that the range meets; `values` are the range's elements.
void append_state(std::vector<StateTensor>& state, const std::string& name,
                  const ParameterRange& range, View values);

/// Gives the parameters master weights inside one block, with room for their padded shapes.
FlatTensors materialize(std::span<Parameter* const> parameters, CachingAllocator& allocator);

}  // namespace plinth::core::optim
