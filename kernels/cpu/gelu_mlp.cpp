// SPDX-License-Identifier: Apache-2.0
#include "kernels/gelu_mlp.h"

namespace plinth::kernels::cpu {

void matmul_gelu(View h, View pre, ConstView a, ConstView b, ConstView bias, Gelu form,
                 Matmul options, Stream& stream) {
    CHECK(!options.accumulate && h.data != pre.data, "matmul_gelu: writes two tensors of its own");
    matmul(pre, a, b, bias, options, stream);
    gelu_forward(h, pre, form, stream);
}

void matmul_gelu_backward(View dpre, ConstView a, ConstView b, ConstView pre, Gelu form,
                          Matmul options, Stream& stream) {
    CHECK(!options.accumulate && dpre.data != pre.data,
          "matmul_gelu_backward: writes a tensor of its own");
    matmul(dpre, a, b, {}, options, stream);
    gelu_backward(dpre, dpre, pre, form, stream);
}

}  // namespace plinth::kernels::cpu
