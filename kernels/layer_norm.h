// SPDX-License-Identifier: Apache-2.0
// D width. x, y, dy, dx are fp32 or bf16, all of one dtype; everything else is fp32.
#pragma once

#include "kernels/kernel.h"

namespace plinth::kernels {

/// Rows whose share of a weight gradient is summed first; then the blocks are summed in order.
inline constexpr int64_t norm_rows_per_block = 64;

/// Number of partial sums of a norm's weight gradient.
inline int64_t norm_blocks(int64_t rows) {
    return (rows + norm_rows_per_block - 1) / norm_rows_per_block;
}

/// y[rows, D] = (x - mean) rstd weight[D] + bias[D]; mean[rows] of each row,
/// rstd[rows] = 1 / sqrt(var + eps), var the biased variance about that mean (Ba, Kiros, Hinton,
/// "Layer normalization", 2016). bias may be left out. With a branch, sum[rows, D] = x + branch in
/// their dtype is written, and takes the place of x: the bits of `add` and of the norm of its
/// result. sum is left out where branch is.
PLINTH_KERNEL(layer_norm_forward, View y, View mean, View rstd, View sum, ConstView x,
              ConstView branch, ConstView weight, ConstView bias, float eps);

/// With h = (x - mean) rstd and g = dy weight: dx = rstd (g - mean(g) - h mean(g h)).
/// dweight_blocks[norm_blocks(rows), D] and dbias_blocks (may be left out) are overwritten with the
/// sums of dy h and dy over each block of rows; their column sums are the gradients. dx may be left
/// out, or be dy. Where what the norm read goes elsewhere too, dsum[rows, D], the gradient from
/// there, is added to dx in its dtype, with the bits of `add`; it may be left out, or be dx.
PLINTH_KERNEL(layer_norm_backward, View dx, View dweight_blocks, View dbias_blocks, ConstView dy,
              ConstView dsum, ConstView x, ConstView weight, ConstView mean, ConstView rstd);

}  // namespace plinth::kernels
