// SPDX-License-Identifier: Apache-2.0
// Elementary functions for row loops. A library call in a loop keeps the compiler from vectorising
// it and differs between machines; these are short polynomials with the same bits everywhere.
// Each states its error, which tests/unit/kernels/math.cpp measures against double.
#pragma once

#include <bit>
#include <cstdint>
#include <limits>

#include "kernels/simd.h"

namespace plinth::kernels {

/// numerator / denominator, a positive one that is not subnormal. On a GPU it is numerator times
/// the reciprocal: one Newton step makes that the rounded one where it is a normal number, and
/// nothing branches. Elementwise kernels would wait for the exact division, twice as long, instead
/// of for the memory.
PLINTH_HOST_DEVICE PLINTH_INLINE float quotient_of(float numerator, float denominator) {
#if defined(__CUDA_ARCH__)
    float guess;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(guess) : "f"(denominator));
    const float refined = __builtin_fmaf(__builtin_fmaf(-denominator, guess, 1.0f), guess, guess);
    return numerator * (denominator < 3e38f ? refined : guess);  // infinity and NaN: the guess
#else
    return numerator / denominator;
#endif
}

/// e^x, relative error below 1.2e-7 where the result is a normal number; 0 where it would be
/// subnormal (x < -87.33), infinity above 88.72, NaN of NaN.
PLINTH_HOST_DEVICE PLINTH_INLINE float exp_of(float x) {
    // x = n ln 2 + r with |r| <= ln 2 / 2. Adding 1.5 * 2^23 rounds to the integer n and leaves it
    // in the low bits. ln 2 comes in two parts, the first with zeros at its end, so that n times it
    // is exact.
    constexpr float rounding = 12582912.0f;
    const float shifted = __builtin_fmaf(x, 0x1.715476p+0f, rounding);
    const float n = shifted - rounding;
    const float r = __builtin_fmaf(n, -0x1.7f7d1cp-20f, __builtin_fmaf(n, -0x1.62e4p-1f, x));
    // e^r = 1 + r + r^2 q(r); q interpolates at the Chebyshev points.
    float q = 0x1.6d113cp-10f;
    q = __builtin_fmaf(q, r, 0x1.120ba2p-7f);
    q = __builtin_fmaf(q, r, 0x1.55551ap-5f);
    q = __builtin_fmaf(q, r, 0x1.5554dcp-3f);
    q = __builtin_fmaf(q, r, 0.5f);
    const float p = __builtin_fmaf(r * r, q, r) + 1.0f;
    // Times 2^n, by adding to the exponent.
    const uint32_t bits = std::bit_cast<uint32_t>(p) + (std::bit_cast<uint32_t>(shifted) << 23);
    float y = std::bit_cast<float>(bits);
    y = x < -87.336540f ? 0.0f : y;
    y = x > 88.722839f ? std::numeric_limits<float>::infinity() : y;
    return x == x ? y : x;
}

}  // namespace plinth::kernels
