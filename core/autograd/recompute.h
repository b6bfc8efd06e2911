// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>

#include "core/tensor/tensor.h"

namespace plinth::core {

/// y = f(x) without keeping what f's backward needs: only x is kept, and f runs again in the
/// backward pass. The same bits as f(x), because random numbers are functions of the step and the
/// sample. f may use parameters; tensors that it captures must need no gradient.
Tensor recompute(std::function<Tensor(const Tensor&)> f, const Tensor& x);

}  // namespace plinth::core
