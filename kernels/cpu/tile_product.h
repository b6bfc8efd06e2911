// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace plinth::kernels::cpu {

/// Columns of the right operand and of the result are padded to a multiple of this many floats.
inline constexpr int64_t tile_lanes = 16;

/// The left operand of a tile product: element (i, p) lies at data[i * row + p * column].
struct LeftOperand {
    const float* data;
    int64_t row, column;
};

/// c[m,n] = a[m,k] b[k,n], or c += when `accumulate`; b and c are row-major with strides ldb and
/// ldc, n is a multiple of tile_lanes. For the small panels of attention, which stay in the cache
/// and need no packing. Every element is one chain of fused multiply-adds in the order of k: its
/// bits depend neither on m and n nor on the instruction set, which oneDNN does not promise.
void tile_product(int64_t m, int64_t n, int64_t k, LeftOperand a, const float* b, int64_t ldb,
                  float* c, int64_t ldc, bool accumulate);

}  // namespace plinth::kernels::cpu
