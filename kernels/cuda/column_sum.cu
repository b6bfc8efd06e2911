// SPDX-License-Identifier: Apache-2.0
// M rows, N columns.
#include "kernels/cuda/rows.cuh"
#include "kernels/matmul.h"

namespace plinth::kernels::cuda {

namespace {

constexpr int threads = 128;
constexpr int64_t rows_per_block = 64;
constexpr int groups = 32;  // of blocks, in the second pass

/// partial[block][N]: the sum of a block of rows, row after row. Moves dy once, and 1/16 of its
/// elements as fp32.
template <int width, typename T>
__global__ void sum_rows(float* partial, const T* dy, int64_t rows, int64_t columns) {
    const int64_t column = (int64_t{blockIdx.y} * threads + threadIdx.x) * width;
    if (column >= columns) return;
    const int64_t begin = int64_t{blockIdx.x} * rows_per_block;
    const int count = static_cast<int>(min(rows_per_block, rows - begin));
    const T* in = dy + begin * columns + column;
    float sum[width] = {};
#pragma unroll 8
    for (int row = 0; row < count; ++row) {
        const auto values = *reinterpret_cast<const Vector<T, width>*>(in + row * columns);
#pragma unroll
        for (int i = 0; i < width; ++i)
            sum[i] += to_float(values.values[i]);
    }
    float* out = partial + int64_t{blockIdx.x} * columns + column;
#pragma unroll
    for (int i = 0; i < width; ++i)
        out[i] = sum[i];
}

/// dbias[N] = sum over the blocks: each of 32 groups its range in order, then the groups in order.
__global__ void sum_blocks(float* dbias, const float* partial, int64_t blocks, int64_t columns) {
    __shared__ float sums[groups][32];
    const int64_t column = int64_t{blockIdx.x} * 32 + threadIdx.x;
    const int64_t per_group = (blocks + groups - 1) / groups;
    const int64_t begin = threadIdx.y * per_group, end = min(blocks, begin + per_group);
    float sum = 0.0f;
    if (column < columns) {
#pragma unroll 8
        for (int64_t block = begin; block < end; ++block)
            sum += partial[block * columns + column];
    }
    sums[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y != 0 || column >= columns) return;
    for (int group = 1; group < groups; ++group)
        sum += sums[group][threadIdx.x];
    dbias[column] = sum;
}

template <int width, typename T>
void launch_sum_rows(float* partial, const T* dy, int64_t rows, int64_t columns, Queue& queue) {
    const dim3 grid(blocks_for(rows, rows_per_block), blocks_for(columns, threads, width));
    sum_rows<width><<<grid, threads, 0, queue.stream()>>>(partial, dy, rows, columns);
}

}  // namespace

void column_sum(View dbias, ConstView dy, Stream& stream) {
    CHECK(dbias.elements() == dy.dim(-1) && dy.is_contiguous(), "column_sum: {} from {}",
          dbias.shape.text(), dy.shape.text());
    const int64_t rows = dy.shape.rows(), columns = dy.dim(-1);
    Queue& queue = queue_of(stream);
    float* out = dbias.as<float>();
    if (columns == 0) return;
    if (rows == 0) return queue.set_zero(out, dbias.bytes());
    const int64_t blocks = (rows + rows_per_block - 1) / rows_per_block;
    auto* partial = blocks == 1 ? out
                                : static_cast<float*>(queue.scratch(
                                      static_cast<size_t>(blocks * columns) * sizeof(float)));
    with_device_float(dy.dtype, "column_sum", [&]<typename T>(T) {
        if (columns % widest<T> == 0 && is_aligned(dy.data, 16))
            launch_sum_rows<widest<T>>(partial, dy.as<T>(), rows, columns, queue);
        else
            launch_sum_rows<1>(partial, dy.as<T>(), rows, columns, queue);
    });
    CUDA_CHECK_LAUNCH("column_sum");
    if (blocks == 1) return;
    sum_blocks<<<blocks_for(columns, 32), dim3(32, groups), 0, queue.stream()>>>(out, partial,
                                                                                 blocks, columns);
    CUDA_CHECK_LAUNCH("column_sum");
}

PLINTH_CUDA_KERNEL(column_sum);

}  // namespace plinth::kernels::cuda
