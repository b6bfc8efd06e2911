// SPDX-License-Identifier: Apache-2.0
// M rows, N columns, K inner extent.
#pragma once

#include <string>

#include "kernels/kernel.h"

namespace plinth::kernels {

struct Matmul {
    bool transpose_a = false;  ///< a is stored [K, M]
    bool transpose_b = false;  ///< b is stored [N, K]
    /// Adds to c: the product is finished first, then added once, so that the bits are those of a
    /// separate add.
    bool accumulate = false;
};

/// c[M,N] = op(a)[M,K] op(b)[K,N] (+ bias[N], fp32, may be left out).
/// dtypes: a and b are both fp32 or both bf16; c is fp32 or bf16. Sums are fp32. Rows may be
/// strided.
PLINTH_KERNEL(matmul, View c, ConstView a, ConstView b, ConstView bias, Matmul options);

/// dbias[N] = column sums of dy[M,N] in fp32, in a fixed order (blocks of rows, then the blocks).
PLINTH_KERNEL(column_sum, View dbias, ConstView dy);

/// The algorithms that the device's library has chosen for the stream's products so far, as text
/// that names the GPU and the library's version. Empty on the CPU, where shapes alone decide.
PLINTH_KERNEL(save_matmul_algorithms, std::string& text);
/// Takes such a text over, before the first product: equal products then take the same algorithms,
/// without being timed. `is_taken` is false if the text is of another machine, and on the CPU.
/// Throws an error of kind io that names the line if it is no such text.
PLINTH_KERNEL(load_matmul_algorithms, bool& is_taken, const std::string& text);

}  // namespace plinth::kernels
