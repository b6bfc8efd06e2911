// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/kernel.h"

namespace plinth::kernels {

/// y[rows, F] = silu(gate) * up with silu(g) = g / (1 + e^-g), from packed x[rows, 2F] = gate | up
/// (Shazeer, "GLU Variants Improve Transformer", 2020). fp32 or bf16, arithmetic in fp32.
PLINTH_KERNEL(swiglu_forward, View y, ConstView x);

/// dx[rows, 2F] from dy[rows, F] and the forward pass's x.
PLINTH_KERNEL(swiglu_backward, View dx, ConstView dy, ConstView x);

}  // namespace plinth::kernels
