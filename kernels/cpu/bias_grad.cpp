// SPDX-License-Identifier: Apache-2.0
#include "kernels/bias_grad.h"

#include "kernels/gelu_mlp.h"
#include "kernels/matmul.h"

namespace plinth::kernels::cpu {

void linear_grads(View dweight, View dbias, ConstView dy, ConstView x, Stream& stream) {
    matmul(dweight, dy, x, {}, {.transpose_a = true}, stream);
    column_sum(dbias, dy, stream);
}

void gelu_linear_grads(View dpre, View dbias, ConstView dy, ConstView weight, ConstView pre,
                       Stream& stream) {
    matmul_gelu_backward(dpre, dy, weight, pre, Gelu::tanh, {}, stream);
    column_sum(dbias, dpre, stream);
}

}  // namespace plinth::kernels::cpu
