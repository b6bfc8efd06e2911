// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/autograd/parameter.h"
#include "core/tensor/tensor.h"

namespace plinth::core::ops {

/// y = a + b, of one shape and dtype: a residual connection.
Tensor add(const Tensor& a, const Tensor& b);

/// y[..., N] = x[..., N] + bias[N], for a bias that cannot ride on the product before it. Backward:
/// dbias = column sums of dy.
Tensor add_bias(const Tensor& x, Parameter& bias);

}  // namespace plinth::core::ops
