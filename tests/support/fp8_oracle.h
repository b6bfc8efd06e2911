// SPDX-License-Identifier: Apache-2.0
// 8-bit floats by the definition of the formats, in double, sharing no arithmetic with
// kernels/fp8.h.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "kernels/fp8.h"

namespace plinth::test {

/// (-1)^s 2^(e - bias) (1 + m / 2^mantissa), and what stands for the largest exponents.
inline double defined_value(int bits, kernels::Fp8 format) {
    const bool is_e4m3 = format == kernels::Fp8::e4m3;
    const int mantissa = is_e4m3 ? 3 : 2, bias = is_e4m3 ? 7 : 15;
    const int exponent = (bits & 0x7f) >> mantissa, fraction = bits & ((1 << mantissa) - 1);
    const double sign = bits & 0x80 ? -1.0 : 1.0;
    if (is_e4m3 && (bits & 0x7f) == 0x7f) return std::nan("");
    if (!is_e4m3 && exponent == 31)
        return fraction ? std::nan("") : sign * std::numeric_limits<double>::infinity();
    const double steps = exponent == 0 ? fraction : fraction + (1 << mantissa);
    return sign * std::ldexp(steps, std::max(exponent, 1) - bias - mantissa);
}

inline bool is_finite_code(int bits, kernels::Fp8 format) {
    return std::isfinite(defined_value(bits, format));
}

/// The nearest finite number; of two as near, the one with the even code.
inline int nearest_code(double x, kernels::Fp8 format) {
    int best = -1;
    double least = 0.0;
    for (int code = 0; code < 128; ++code) {
        if (!is_finite_code(code, format)) continue;
        const double distance = std::abs(defined_value(code, format) - std::abs(x));
        if (best < 0 || distance < least || (distance == least && code % 2 == 0)) {
            best = code;
            least = distance;
        }
    }
    return (std::signbit(x) ? 0x80 : 0) | best;
}

/// Values as they come back from 8 bits with one scale, which takes `largest` to the format's
/// largest number.
inline std::vector<double> through_fp8(const std::vector<float>& x, kernels::Fp8 format,
                                       float largest) {
    const float scale = largest / (format == kernels::Fp8::e4m3 ? 448.0f : 57344.0f);
    const float reciprocal = 1.0f / scale;
    std::vector<double> values;
    for (const float value : x)
        values.push_back(
            static_cast<double>(scale) *
            defined_value(nearest_code(static_cast<double>(value * reciprocal), format), format));
    return values;
}

/// The scale of the tensor itself.
inline std::vector<double> through_fp8(const std::vector<float>& x, kernels::Fp8 format) {
    float largest = 0.0f;
    for (const float value : x)
        largest = std::max(largest, std::abs(value));
    return through_fp8(x, format, largest);
}

}  // namespace plinth::test
