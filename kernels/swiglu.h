// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/kernel.h"
#include "kernels/math.h"

namespace plinth::kernels {

/// y[rows, F] = silu(gate) * up with silu(g) = g / (1 + e^-g), from packed x[rows, 2F] = gate | up
/// (Shazeer, "GLU Variants Improve Transformer", 2020). fp32 or bf16, arithmetic in fp32.
PLINTH_KERNEL(swiglu_forward, View y, ConstView x);

/// dx[rows, 2F] from dy[rows, F] and the forward pass's x.
PLINTH_KERNEL(swiglu_backward, View dx, ConstView dy, ConstView x);

PLINTH_HOST_DEVICE PLINTH_INLINE float swiglu_of(float gate, float up) {
    return quotient_of(gate, 1.0f + exp_of(-gate)) * up;
}

/// With s = sigmoid(g): d silu / dg = s (1 + g (1 - s)).
struct SwigluGradients {
    float gate, up;
};
PLINTH_HOST_DEVICE PLINTH_INLINE SwigluGradients swiglu_gradients(float dy, float gate, float up) {
    const float s = quotient_of(1.0f, 1.0f + exp_of(-gate));
    return {dy * up * s * (1.0f + gate * (1.0f - s)), dy * gate * s};
}

}  // namespace plinth::kernels
