// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/tensor/tensor.h"

namespace plinth::core::ops {

/// y[..., F] = silu(gate) * up from packed x[..., 2F] = gate | up.
Tensor swiglu(const Tensor& x);

}  // namespace plinth::core::ops
