// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/kernel.h"

namespace plinth::kernels {

/// y[rows, D] = x * rstd * weight[D], rstd[rows] = 1 / sqrt(mean(x^2) + eps) (Zhang and Sennrich,
/// "Root Mean Square Layer Normalization", 2019). x and y are fp32 or bf16; rstd, weight and the
/// arithmetic fp32. With a branch, sum[rows, D] = x + branch in their dtype is written, and takes
/// the place of x: the bits of `add` and of the norm of its result. sum is left out where branch
/// is.
PLINTH_KERNEL(rms_norm_forward, View y, View rstd, View sum, ConstView x, ConstView branch,
              ConstView weight, double eps);

/// dx[rows, D] and dweight[D] (fp32, sums over blocks of rows in a fixed order). Either may be left
/// out. With g = dy * weight and xh = x * rstd: dx = rstd (g - xh mean(g xh)), dweight = sum dy xh.
/// Where what the norm read goes elsewhere too, dsum[rows, D], the gradient from there, is added to
/// dx in its dtype, with the bits of `add`; it may be left out, or be dx.
PLINTH_KERNEL(rms_norm_backward, View dx, View dweight, ConstView dy, ConstView dsum, ConstView x,
              ConstView weight, ConstView rstd);

}  // namespace plinth::kernels
