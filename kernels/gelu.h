// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/kernel.h"
#include "kernels/math.h"

namespace plinth::kernels {

/// Which GELU (Hendrycks and Gimpel, "Gaussian error linear units", 2016): x Phi(x) with the normal
/// distribution Phi itself, or its tanh approximation 0.5 x (1 + tanh(u)),
/// u = sqrt(2 / pi) (x + 0.044715 x^3).
enum class Gelu { tanh, erf };

/// y = gelu(x), element by element; contiguous fp32 or bf16, arithmetic in fp32.
PLINTH_KERNEL(gelu_forward, View y, ConstView x, Gelu form);

/// dx = dy gelu'(x). dx may be dy.
PLINTH_KERNEL(gelu_backward, View dx, ConstView dy, ConstView x, Gelu form);

/// A form's factor s(x), with gelu = x s, and the derivative of gelu.
struct GeluParts {
    float factor, slope;
};

/// 0.5 (1 + tanh u) is the logistic function of 2u: one exponential, no cancellation for x < 0.
PLINTH_HOST_DEVICE PLINTH_INLINE GeluParts gelu_tanh_parts(float x) {
    constexpr float two_root = 1.5957691216f;  // 2 sqrt(2 / pi)
    const float square = x * x;
    const float s =
        quotient_of(1.0f, 1.0f + exp_of(-two_root * x * __builtin_fmaf(0.044715f, square, 1.0f)));
    // The derivative of 2u. Far out s (1 - s) is 0 and must not meet an infinite square.
    const float inner = two_root * __builtin_fmaf(0.134145f, square < 1e4f ? square : 1e4f, 1.0f);
    return {s, __builtin_fmaf((x < 100.0f ? x : 100.0f) * s * (1.0f - s), inner, s)};
}

/// Phi(-a) = e^(-a^2/2) t p(t) with t = 1 / (1 + 0.35 a) for a >= 0; p interpolates at Chebyshev
/// points to 1e-7 relative for a <= 13.5, where the exponential ends.
PLINTH_HOST_DEVICE PLINTH_INLINE GeluParts gelu_erf_parts(float x) {
    const float a = x < 0.0f ? -x : x;
    const float t = quotient_of(1.0f, __builtin_fmaf(0.35f, a, 1.0f));
    float p = -0x1.d980ccp-6f;
    p = __builtin_fmaf(p, t, 0x1.249662p-3f);
    p = __builtin_fmaf(p, t, -0x1.03b558p-2f);
    p = __builtin_fmaf(p, t, 0x1.4191a4p-3f);
    p = __builtin_fmaf(p, t, -0x1.65003ap-6f);
    p = __builtin_fmaf(p, t, 0x1.ae2968p-4f);
    p = __builtin_fmaf(p, t, 0x1.eb4502p-4f);
    p = __builtin_fmaf(p, t, 0x1.1e696ep-3f);
    p = __builtin_fmaf(p, t, 0x1.1df222p-3f);
    const float bell = exp_of(-0.5f * x * x);
    const float tail = bell * (t * p);
    const float phi = x < 0.0f ? tail : 1.0f - tail;
    const float density = 0.3989422804f * bell;  // 1 / sqrt(2 pi)
    const float near = x < 100.0f ? (x > -100.0f ? x : -100.0f) : 100.0f;
    return {phi, __builtin_fmaf(near, density, phi)};
}

}  // namespace plinth::kernels
