// SPDX-License-Identifier: Apache-2.0
// The products of an MLP with GELU between them: M rows, N columns, K inner extent.
#pragma once

#include "kernels/gelu.h"
#include "kernels/kernel.h"
#include "kernels/matmul.h"

namespace plinth::kernels {

/// pre[M,N] = op(a) op(b) (+ bias[N], fp32, may be left out) and h = gelu(pre); types as for
/// `matmul`. h and pre are contiguous, of one type. The CPU and reproducible streams make h from
/// the rounded pre, as gelu_forward does; others may make it from the sums before they are rounded.
PLINTH_KERNEL(matmul_gelu, View h, View pre, ConstView a, ConstView b, ConstView bias, Gelu form,
              Matmul options);

/// dpre[M,N] = (op(a) op(b)) gelu'(pre); dpre and pre are contiguous, of one type, and apart.
PLINTH_KERNEL(matmul_gelu_backward, View dpre, ConstView a, ConstView b, ConstView pre, Gelu form,
              Matmul options);

}  // namespace plinth::kernels
