// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/cuda/queue.h"
#include "kernels/view.h"

namespace plinth::kernels::cuda {

/// c[M,N] = product + bias[N], or c + product: one addition in fp32, then one rounding. The fp32
/// product has rows `stride` elements apart (a multiple of 4, on an address that 16 bytes divide);
/// null stands for zeros. The bias may be left out.
void finish_product(View c, const float* product, int64_t stride, ConstView bias, bool accumulate,
                    Queue& queue);

/// out[n] = bias[n] (fp32), rounded to the dtype.
void copy_bias(void* out, DType dtype, const float* bias, int64_t n, Queue& queue);

}  // namespace plinth::kernels::cuda
