// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>

#include "core/tensor/tensor.h"

namespace plinth::core {

/// y = f(x) without keeping what f's backward needs: only x is kept, and f runs again in the
/// backward pass. The same bits as f(x), because random numbers are functions of the step and the
/// sample. f may use parameters; tensors that it captures must need no gradient.
Tensor recompute(std::function<Tensor(const Tensor&)> f, const Tensor& x);

/// Gives y, which f has made, a recipe that runs f again, unrecorded, when the first of those who
/// keep y for the backward pass asks for it. What it gives stays until the last of them is done, so
/// that a dear f runs once; none of them may change it. f must give y's bits, and holds what it
/// needs as saved tensors.
void remake_once(Tensor& y, std::function<Tensor()> f);

}  // namespace plinth::core
