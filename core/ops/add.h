// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/tensor/tensor.h"

namespace plinth::core::ops {

/// y = a + b, of one shape and dtype: a residual connection.
Tensor add(const Tensor& a, const Tensor& b);

}  // namespace plinth::core::ops
