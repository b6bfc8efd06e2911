// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/autograd/parameter.h"
#include "core/tensor/tensor.h"
#include "kernels/qk_norm.h"

namespace plinth::core::ops {

/// qkv[B,T,(H + 2 G) K] with every query and key head divided by its root mean square and
/// multiplied with q_weight[K] or k_weight[K]; see kernels/qk_norm.h.
Tensor qk_norm(const Tensor& qkv, Parameter& q_weight, Parameter& k_weight,
               const kernels::QkNorm& options);

}  // namespace plinth::core::ops
