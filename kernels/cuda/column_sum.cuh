// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/cuda/queue.h"

namespace plinth::kernels::cuda {

/// Scratch that `sum_columns` needs.
size_t column_sum_scratch(int64_t rows, int64_t columns, size_t element);

/// out[columns] = column sums of x[rows, columns], contiguous, in a fixed order. `scratch` has
/// column_sum_scratch bytes. For float and BFloat16.
template <typename T>
void sum_columns(float* out, const T* x, int64_t rows, int64_t columns, void* scratch,
                 Queue& queue);

}  // namespace plinth::kernels::cuda
