// SPDX-License-Identifier: Apache-2.0
// Gradients of a linear layer's bias together with the product beside which a library can sum them.
// For measurements: training takes the product and then column_sum, until a card has shown what is
// faster (docs/gpu_tuning.md, step 3). N tokens, O output features, I input features.
#pragma once

#include "kernels/kernel.h"

namespace plinth::kernels {

/// dweight[O,I] = dy[N,O]^T x[N,I] and dbias[O] = column sums of dy. dweight and dbias are fp32; dy
/// and x are both fp32 or both bf16, and what lies in dbias begins at a multiple of 16 bytes. On a
/// GPU streams that are not reproducible let the library do both where it can, which the names of
/// its algorithms then say (save_matmul_algorithms: "bias gradient").
PLINTH_KERNEL(linear_grads, View dweight, View dbias, ConstView dy, ConstView x);

/// dpre[N,O] = (dy[N,I] weight[I,O]) gelu'(pre), GELU by tanh, and dbias[O] = column sums of dpre,
/// fp32. dpre, dy, weight and pre are all fp32 or all bf16. The same holds of a GPU, for bf16: the
/// library gives sums in dpre's type, which are then converted.
PLINTH_KERNEL(gelu_linear_grads, View dpre, View dbias, ConstView dy, ConstView weight,
              ConstView pre);

}  // namespace plinth::kernels
