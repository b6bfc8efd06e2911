// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <string>
#include <vector>

#include "core/autograd/parameter.h"

namespace plinth::core::optim {

/// One fp32 tensor a parameter, in one block of memory, each beginning on a 1,024-element boundary:
/// where optimizer shards are cut.
class FlatTensors {
  public:
    static constexpr int64_t alignment = 1024;

    /// Zeroed, padding included. Keeps references to the parameters.
    FlatTensors(std::span<Parameter* const> parameters, CachingAllocator& allocator);

    size_t size() const { return tensors_.size(); }
    Tensor& operator[](size_t i) { return tensors_[i]; }
    /// As training state named prefix + parameter name.
    std::vector<StateTensor> state(const std::string& prefix);

  private:
    std::vector<Parameter*> parameters_;
    Tensor block_;
    std::vector<Tensor> tensors_;
};

/// One piece of state a box of the parameter; `data` holds its local elements.
void append_state(std::vector<StateTensor>& state, const std::string& name,
                  const Parameter& parameter, float* data);

/// Gives the parameters master weights inside one block.
FlatTensors materialize(std::span<Parameter* const> parameters, CachingAllocator& allocator);

}  // namespace plinth::core::optim
