// SPDX-License-Identifier: Apache-2.0
// M rows, N columns, K inner extent, R rows and C columns of a matrix.
// 8-bit floats (Micikevicius et al., "FP8 formats for deep learning", 2022) with one scale a
// tensor: a value is its 8 bits times the scale. The bits travel in u8 views.
#pragma once

#include <bit>
#include <cstdint>

#include "kernels/kernel.h"
#include "kernels/simd.h"

namespace plinth::kernels {

enum class Fp8 : uint8_t {
    e4m3,  ///< 3 bits of mantissa, up to 448, no infinity: forward
    e5m2,  ///< 2 bits of mantissa, up to 57,344: gradients
};

PLINTH_HOST_DEVICE PLINTH_INLINE constexpr float largest_of(Fp8 format) {
    return format == Fp8::e4m3 ? 448.0f : 57344.0f;
}

/// The nearest 8 bits, ties to even; what is larger than the largest number becomes the largest
/// number. NaN stays NaN.
PLINTH_HOST_DEVICE PLINTH_INLINE uint8_t fp8_bits(float x, Fp8 format) {
    const int mantissa = format == Fp8::e4m3 ? 3 : 2;
    const int smallest = format == Fp8::e4m3 ? -6 : -14;  // exponent of the smallest normal number
    const auto wide = std::bit_cast<uint32_t>(x);
    const uint32_t sign = (wide >> 24) & 0x80u, magnitude = wide & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return 0x7fu;
    if (std::bit_cast<float>(magnitude) >= largest_of(format))
        return static_cast<uint8_t>(sign | (format == Fp8::e4m3 ? 0x7eu : 0x7bu));
    const int exponent = static_cast<int>(magnitude >> 23) - 127;
    if (exponent < smallest) {
        // Below the normal numbers the steps are equal: adding a number whose last bit is one step
        // rounds to them, and its low bits count the steps.
        const uint32_t shift = static_cast<uint32_t>(smallest - mantissa + 23 + 127) << 23;
        const float rounded = std::bit_cast<float>(magnitude) + std::bit_cast<float>(shift);
        return static_cast<uint8_t>(sign | (std::bit_cast<uint32_t>(rounded) - shift));
    }
    const int dropped = 23 - mantissa;
    const uint32_t half = (1u << (dropped - 1)) - 1u + ((magnitude >> dropped) & 1u);
    const uint32_t bias = static_cast<uint32_t>(127 + smallest - 1) << mantissa;
    return static_cast<uint8_t>(sign | (((magnitude + half) >> dropped) - bias));
}

/// The value of 8 bits, exactly.
PLINTH_HOST_DEVICE PLINTH_INLINE float fp8_value(uint8_t bits, Fp8 format) {
    const int mantissa = format == Fp8::e4m3 ? 3 : 2;
    const int smallest = format == Fp8::e4m3 ? -6 : -14;
    const uint32_t sign = static_cast<uint32_t>(bits & 0x80u) << 24, magnitude = bits & 0x7fu;
    const uint32_t infinity = format == Fp8::e4m3 ? 0x7fu : 0x7cu;  // e4m3 has a NaN in its place
    if (magnitude >= infinity) {
        const bool is_nan = format == Fp8::e4m3 || magnitude > infinity;
        return std::bit_cast<float>(sign | 0x7f800000u | (is_nan ? 0x400000u : 0u));
    }
    if (magnitude < (1u << mantissa)) {
        const uint32_t step = static_cast<uint32_t>(smallest - mantissa + 127) << 23;
        const float value = static_cast<float>(magnitude) * std::bit_cast<float>(step);
        return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(value));
    }
    const uint32_t bias = static_cast<uint32_t>(127 + smallest - 1) << mantissa;
    return std::bit_cast<float>(sign | ((magnitude + bias) << (23 - mantissa)));
}

/// The scale of a tensor whose largest magnitude has these fp32 bits: that magnitude becomes the
/// format's largest number. 1 if all is zero; NaN if anything is not finite, so that the step is
/// seen to be bad.
PLINTH_HOST_DEVICE PLINTH_INLINE float fp8_scale_for(uint32_t largest_magnitude, Fp8 format) {
    if (largest_magnitude == 0) return 1.0f;
    if (largest_magnitude >= 0x7f800000u) return std::bit_cast<float>(0x7fc00000u);
    const float exact = std::bit_cast<float>(largest_magnitude) / largest_of(format);
    // The smallest normal number: below it the reciprocal would be infinite.
    return exact < 0x1p-126f ? 0x1p-126f : exact;
}

/// scale[1] (fp32) for x (fp32 or bf16, contiguous). Where known[1] (fp32, may be left out) is more
/// than 0, that is the scale, and x is not read.
PLINTH_KERNEL(fp8_scale, View scale, ConstView x, ConstView known, Fp8 format);

/// y[R,C] = x[R,C] / scale as 8 bits, and the same transposed [C,R]; either may be left out.
/// `largest`[1] (fp32, 0 or more; may be left out) is raised to the largest |x|, to NaN where there
/// is one. The quotient is x times the rounded reciprocal. x: fp32 or bf16, contiguous; C, and with
/// `transposed` also R, are multiples of 16.
PLINTH_KERNEL(fp8_quantize, View y, View transposed, View largest, ConstView x, ConstView scale,
              Fp8 format);

struct Fp8Matmul {
    Fp8 a = Fp8::e4m3, b = Fp8::e4m3;  ///< not both e5m2
    bool accumulate = false;           ///< as Matmul::accumulate
    /// Partial sums keep fewer bits inside of the matrix units: faster, for forward passes only.
    bool fast_sums = false;
};

/// c[M,N] = scale_a scale_b a[M,K] b[N,K]^T (+ bias[N], fp32, may be left out). a and b are
/// contiguous 8-bit matrices; K and N are multiples of 16. c is bf16 or fp32. Sums are fp32.
PLINTH_KERNEL(fp8_matmul, View c, ConstView a, ConstView b, ConstView bias, ConstView scale_a,
              ConstView scale_b, Fp8Matmul options);

inline void check_fp8_scale(const View& scale, const ConstView& x, const ConstView& known) {
    CHECK(scale.elements() == 1 && x.is_contiguous() && (!known || known.elements() == 1),
          "fp8_scale: {} of {}, {} known", scale.shape.text(), x.shape.text(), known.elements());
}

inline void check_fp8_quantize(const View& y, const View& transposed, const View& largest,
                               const ConstView& x, const ConstView& of_x) {
    CHECK(x.shape.rank() == 2 && x.is_contiguous() && x.dim(1) % 16 == 0 && of_x.elements() == 1,
          "fp8_quantize: {} must be contiguous, with rows of a multiple of 16", x.shape.text());
    CHECK(!largest || (largest.elements() == 1 && largest.dtype == DType::f32),
          "fp8_quantize: one largest magnitude, not {}", largest.shape.text());
    CHECK(!y || (y.shape == x.shape && y.is_contiguous()), "fp8_quantize: {} from {}",
          y.shape.text(), x.shape.text());
    CHECK(!transposed || (transposed.shape == Shape({x.dim(1), x.dim(0)}) &&
                          transposed.is_contiguous() && x.dim(0) % 16 == 0),
          "fp8_quantize: {} from {}^T, whose extents are multiples of 16", transposed.shape.text(),
          x.shape.text());
}

inline void check_fp8_matmul(const View& c, const ConstView& a, const ConstView& b,
                             const ConstView& bias, const ConstView& scale_a,
                             const ConstView& scale_b, const Fp8Matmul& options) {
    CHECK(c.shape.rank() == 2 && a.shape == Shape({c.dim(0), a.dim(-1)}) &&
              b.shape == Shape({c.dim(1), a.dim(-1)}) && a.is_contiguous() && b.is_contiguous(),
          "fp8_matmul: {} = {} x {}^T does not fit", c.shape.text(), a.shape.text(),
          b.shape.text());
    CHECK(a.dim(1) % 16 == 0 && b.dim(0) % 16 == 0,
          "fp8_matmul: {} x {}^T: K and N must be multiples of 16", a.shape.text(), b.shape.text());
    CHECK(scale_a.elements() == 1 && scale_b.elements() == 1, "fp8_matmul: one scale a matrix");
    CHECK(!bias || (bias.elements() == c.dim(1) && !options.accumulate),
          "fp8_matmul: bias {} for {}, and no sum beside it", bias.shape.text(), c.shape.text());
    CHECK(options.a == Fp8::e4m3 || options.b == Fp8::e4m3,
          "fp8_matmul: e5m2 times e5m2 is not offered");
}

}  // namespace plinth::kernels
