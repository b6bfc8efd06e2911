// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/tensor/tensor.h"

namespace plinth::core::ops {

/// x in another float dtype (x itself if it has it); the gradient is cast back.
Tensor cast(const Tensor& x, DType dtype);

}  // namespace plinth::core::ops
