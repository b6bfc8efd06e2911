// SPDX-License-Identifier: Apache-2.0
// B samples of T tokens, D width.
#pragma once

#include "kernels/kernel.h"

namespace plinth::kernels {

/// Where each sample's label stands. For targets i32 [B, T]: rows[b] (i32 [B]) = b T + the first t
/// whose target is not `ignored_target`, labels[b] (i32 [B]) = that target. A sample without one is
/// an error of kind data.
PLINTH_KERNEL(find_labelled_rows, View rows, View labels, ConstView targets,
              int32_t ignored_target);

/// y[R, D] = x[rows, :] for x [N, D] of one dtype (fp32 or bf16) and rows i32 [R], which ascend: no
/// row is taken twice.
PLINTH_KERNEL(select_rows_forward, View y, ConstView x, ConstView rows);

/// dx[N, D] = zeros, but dx[rows, :] = dy[R, D].
PLINTH_KERNEL(select_rows_backward, View dx, ConstView dy, ConstView rows);

}  // namespace plinth::kernels
