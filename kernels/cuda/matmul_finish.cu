// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/matmul_finish.h"

#include "kernels/cuda/rows.cuh"

namespace plinth::kernels::cuda {

namespace {

constexpr int threads = 128, per_thread = 4;
constexpr int64_t most_blocks_of_rows = 65535;  // of a grid's second dim

/// Moves per element: 4 bytes of the product, and those of c once or, when accumulating, twice.
template <bool is_vector, bool accumulates, typename T>
__global__ void finish(T* c, int64_t c_stride, const float* product, int64_t stride,
                       const float* bias, int64_t rows, int64_t columns) {
    const int64_t first = (int64_t{blockIdx.x} * threads + threadIdx.x) * per_thread;
    if (first >= columns) return;
    for (int64_t row = blockIdx.y; row < rows; row += gridDim.y) {
        T* out = c + row * c_stride + first;
        const float* in = product + row * stride + first;
        if (is_vector && first + per_thread <= columns) {
            Vector<float, per_thread> sum{};
            if (product) sum = *reinterpret_cast<const Vector<float, per_thread>*>(in);
            Vector<T, per_thread> values;
            if constexpr (accumulates) values = *reinterpret_cast<Vector<T, per_thread>*>(out);
#pragma unroll
            for (int i = 0; i < per_thread; ++i) {
                if constexpr (accumulates) sum.values[i] += to_float(values.values[i]);
                if (!accumulates && bias) sum.values[i] += bias[first + i];
                values.values[i] = from_float<T>(sum.values[i]);
            }
            *reinterpret_cast<Vector<T, per_thread>*>(out) = values;
        } else {
            for (int i = 0; i < per_thread && first + i < columns; ++i) {
                float sum = product ? in[i] : 0.0f;
                if constexpr (accumulates) sum += to_float(out[i]);
                if (!accumulates && bias) sum += bias[first + i];
                out[i] = from_float<T>(sum);
            }
        }
    }
}

template <typename T>
__global__ void convert(T* out, const float* in, int64_t n) {
    const int64_t i = int64_t{blockIdx.x} * threads + threadIdx.x;
    if (i < n) out[i] = from_float<T>(in[i]);
}

}  // namespace

void finish_product(View c, const float* product, int64_t stride, ConstView bias, bool accumulate,
                    Queue& queue) {
    int64_t rows = c.dim(0), columns = c.dim(1), c_stride = c.stride(0);
    if (rows == 1 || (c_stride == columns && (!product || stride == columns) && !bias)) {
        columns *= rows;  // one long row
        rows = 1;
        c_stride = stride = 0;
    }
    const dim3 grid(blocks_for(columns, threads, per_thread),
                    static_cast<unsigned>(std::min(rows, most_blocks_of_rows)));
    const float* added = bias ? bias.as<float>() : nullptr;
    with_device_float(c.dtype, "matmul", [&]<typename T>(T) {
        const bool is_vector =
            is_aligned(c.data, sizeof(Vector<T, per_thread>)) && c_stride % per_thread == 0;
        const auto kernel = is_vector ? accumulate ? finish<true, true, T> : finish<true, false, T>
                            : accumulate ? finish<false, true, T>
                                         : finish<false, false, T>;
        kernel<<<grid, threads, 0, queue.stream()>>>(c.as<T>(), c_stride, product, stride, added,
                                                     rows, columns);
    });
    CUDA_CHECK_LAUNCH("matmul");
}

void copy_bias(void* out, DType dtype, const float* bias, int64_t n, Queue& queue) {
    with_device_float(dtype, "matmul", [&]<typename T>(T) {
        convert<T>
            <<<blocks_for(n, threads), threads, 0, queue.stream()>>>(static_cast<T*>(out), bias, n);
    });
    CUDA_CHECK_LAUNCH("matmul");
}

}  // namespace plinth::kernels::cuda
