// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "kernels/kernel.h"

namespace plinth::kernels {

/// Elements of one block of the global gradient norm. Optimizer shards are cut at multiples of it.
inline constexpr int64_t norm_block = 1024;

inline int64_t gradient_blocks(int64_t elements) {
    return (elements + norm_block - 1) / norm_block;
}

/// block_sums f64 [sum of ceil(n / 1024)]: sum of squares of each block of each gradient[n] (fp32),
/// those of one gradient behind those of the other, in double and in a fixed order. A block that
/// holds a NaN or an infinity has a sum that is not finite. On a device in a few launches.
PLINTH_KERNEL(squared_block_sums, View block_sums, std::vector<ConstView> gradients);

/// words i64 [ExactSum::limb_count + 1], overwritten: the exact sum of block_sums f64 [n] in limbs
/// below 2^32 each (ExactSum::limbs), then how many of them were left out, being negative or not
/// finite.
PLINTH_KERNEL(exact_sum_of_blocks, View words, ConstView block_sums);

}  // namespace plinth::kernels
