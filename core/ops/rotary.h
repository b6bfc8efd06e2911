// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/tensor/tensor.h"
#include "kernels/rotary.h"

namespace plinth::core::ops {

/// qkv[B,T,(H + 2 G) K] with query and key heads turned by positions, i32 [B,T]; see
/// kernels/rotary.h. Backward turns the gradient the other way.
Tensor rotary(const Tensor& qkv, const Tensor& positions, const kernels::Rotary& options);

}  // namespace plinth::core::ops
