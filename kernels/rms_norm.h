// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/kernel.h"

namespace plinth::kernels {

/// y[rows, D] = x * rstd * weight[D], rstd[rows] = 1 / sqrt(mean(x^2) + eps) (Zhang and Sennrich,
/// "Root Mean Square Layer Normalization", 2019). x and y are fp32 or bf16; rstd, weight and the
/// arithmetic fp32.
PLINTH_KERNEL(rms_norm_forward, View y, View rstd, ConstView x, ConstView weight, double eps);

/// dx[rows, D] and dweight[D] (fp32, sums over blocks of rows in a fixed order). Either may be left
/// out. With g = dy * weight and xh = x * rstd: dx = rstd (g - xh mean(g xh)), dweight = sum dy xh.
PLINTH_KERNEL(rms_norm_backward, View dx, View dweight, ConstView dy, ConstView x, ConstView weight,
              ConstView rstd);

}  // namespace plinth::kernels
