// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/ops/matmul.h"
#include "kernels/gelu.h"

namespace plinth::core::ops {

/// What `linear` multiplies by and adds.
struct LinearUse {
    WeightUse weight;
    Parameter* bias = nullptr;
};

/// y[..., D] = h down^T (+ bias), h[..., F] = gelu(pre), pre = x[..., D] up^T (+ bias), with the
/// bits of linear, gelu and linear on the CPU. The backward pass keeps x, pre and h; only x and pre
/// where the scope remakes. A weight half that is put off keeps the gradient of pre for it. Both
/// products have operands in 8 bits where the scope has them (core/ops/fp8.h).
Tensor gelu_mlp(const Tensor& x, const LinearUse& up, const LinearUse& down, kernels::Gelu form);

}  // namespace plinth::core::ops
