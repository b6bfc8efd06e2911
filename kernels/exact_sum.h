// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <span>

#include "kernels/runtime/error.h"
#include "kernels/simd.h"

namespace plinth::kernels {

/// A double as three neighbouring 32-bit limbs of a fixed-point number from 2^-1074 on.
struct ExactParts {
    int limb = 0;  ///< of words[0]; a word is 0 where there is no such limb
    uint32_t words[3]{};
};

/// Of a finite double that is not negative.
PLINTH_HOST_DEVICE inline ExactParts exact_parts(double x) {
    constexpr int limb_bits = 32;
    const auto bits = std::bit_cast<uint64_t>(x);
    const int exponent = static_cast<int>(bits >> 52);
    uint64_t mantissa = bits & ((uint64_t{1} << 52) - 1);
    if (exponent > 0) mantissa |= uint64_t{1} << 52;
    // Of the mantissa's lowest bit, from 2^-1074.
    const int position = exponent > 0 ? exponent - 1 : 0;
    const int shift = position % limb_bits;
    // 53 bits shifted by up to 31 span three limbs.
    const uint64_t low = mantissa << shift;
    return {position / limb_bits,
            {static_cast<uint32_t>(low), static_cast<uint32_t>(low >> 32),
             shift > 0 ? static_cast<uint32_t>(mantissa >> (64 - shift)) : 0u}};
}

/// Makes each limb smaller than 2^32: what is above belongs to the next one.
PLINTH_HOST_DEVICE inline void carry_limbs(int64_t* limbs, int count) {
    constexpr int limb_bits = 32;
    int64_t carry = 0;
    for (int i = 0; i < count; ++i) {
        const int64_t limb = limbs[i] + carry;
        carry = limb >> limb_bits;
        limbs[i] = limb & 0xffffffff;
    }
}

/// The number of `count` limbs below 2^32 each, rounded to double.
PLINTH_HOST_DEVICE inline double exact_value(const int64_t* limbs, int count) {
    constexpr int limb_bits = 32;
    double sum = 0.0;  // from the highest limb down: at most the last additions round
    for (int i = count - 1; i >= 0; --i)
        if (limbs[i] != 0) sum += std::ldexp(static_cast<double>(limbs[i]), i * limb_bits - 1074);
    return sum;
}

/// A sum of finite, non-negative doubles without any rounding: a fixed-point number from 2^-1074 on
/// in limbs of 32 bits, each held in an int64 so that limbs of many sums can be added (all-reduced)
/// as plain integers. The result depends on the summands alone, not on their order or grouping (the
/// idea of Kulisch's long accumulator).
class ExactSum {
  public:
    static constexpr int limb_bits = 32;
    static constexpr int limb_count =
        68;  ///< 2,098 bits of a double's range, and room for 2^64 summands

    /// x must be finite and not negative: anything else would index outside of the limbs, or count
    /// as a number that it is not.
    void add(double x) {
        CHECK(std::isfinite(x) && !std::signbit(x), "an exact sum of {}", x);
        const ExactParts parts = exact_parts(x);
        for (size_t i = 0; i < 3; ++i)
            if (parts.words[i] != 0)
                limbs_[static_cast<size_t>(parts.limb) + i] += static_cast<int64_t>(parts.words[i]);
        if (++pending_ == most_pending) normalize();
    }

    /// Limbs below 2^32 each, to be added to those of up to 2^30 other sums.
    std::span<int64_t> limbs() {
        normalize();
        return limbs_;
    }

    /// The sum rounded to double once all limbs are in (after an all-reduce of `limbs()`).
    double value() {
        normalize();
        return exact_value(limbs_.data(), limb_count);
    }

  private:
    static constexpr int64_t most_pending = int64_t{1} << 30;

    void normalize() {
        carry_limbs(limbs_.data(), limb_count);
        pending_ = 0;
    }

    std::array<int64_t, limb_count> limbs_{};
    int64_t pending_ = 0;
};

}  // namespace plinth::kernels
