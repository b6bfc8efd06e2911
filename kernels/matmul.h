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

/// The algorithms that the stream's products so far take of the device's library, as text that
/// names the GPU and the library's version (AlgorithmTable). Empty on the CPU, where shapes alone
/// decide.
PLINTH_KERNEL(save_matmul_algorithms, std::string& text);
/// How many products that text would name; 0 on the CPU.
PLINTH_KERNEL(count_matmul_algorithms, int64_t& count);
/// Takes such a text over: equal products take the same algorithms from now on, without being
/// timed. `is_taken` is false if no table in the text is of this machine, and on the CPU. Throws an
/// error of kind io that names the line if it is no such text.
PLINTH_KERNEL(load_matmul_algorithms, bool& is_taken, const std::string& text);
/// Whether products whose algorithm is open may be timed, as they may at first. Until then they
/// take the library's first proposal and stay open.
PLINTH_KERNEL(let_matmul_be_timed, bool may_time);

}  // namespace plinth::kernels
