// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/tensor/tensor.h"
#include "kernels/gelu.h"

namespace plinth::core::ops {

/// y = gelu(x) in x's shape and dtype. The backward pass keeps x only.
Tensor gelu(const Tensor& x, kernels::Gelu form);

}  // namespace plinth::core::ops
