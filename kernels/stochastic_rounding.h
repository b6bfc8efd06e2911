// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <cstdint>

#include "kernels/runtime/dtype.h"
#include "kernels/simd.h"

namespace plinth {

/// One of the two bf16 neighbours of `value`: the one away from zero with the probability that the
/// way from the other to `value` is of the way between them, so that the mean of what comes out is
/// `value` (Gupta et al. 2015, "Deep Learning with Limited Numerical Precision"). `random` is
/// uniform over 0 to 65,535. What bf16 holds stays what it is, what is finite stays finite, and NaN
/// stays NaN.
PLINTH_HOST_DEVICE PLINTH_INLINE BFloat16 round_stochastically(float value, uint32_t random) {
    const auto wide = std::bit_cast<uint32_t>(value);
    const uint32_t size = wide & 0x7fffffffu;
    // Above the largest finite bf16 number there is nothing to round up to.
    const uint32_t rounded = size < 0x7f7f0000u ? wide + random : wide;
    const bool is_nan = size > 0x7f800000u;
    BFloat16 result;
    result.bits = static_cast<uint16_t>((rounded >> 16) | (is_nan ? 0x40u : 0u));
    return result;
}

}  // namespace plinth
