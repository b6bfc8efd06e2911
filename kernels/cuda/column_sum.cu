// SPDX-License-Identifier: Apache-2.0
// M rows, N columns. Two stages: blocks of rows are summed by columns into scratch, then those
// sums.
#include "kernels/cuda/column_sum.cuh"

#include "kernels/cuda/held_row.cuh"
#include "kernels/matmul.h"

namespace plinth::kernels::cuda {

namespace {

constexpr int warps = 8, threads = warps * 32, rows_in_flight = 8;
constexpr int last_columns = 16, last_rows = 64;  // the last stage's block

/// How the rows are cut; by the shape alone.
struct Cut {
    int64_t columns_per_block = 0, column_blocks = 0;
    int64_t rows_per_block = 0, row_blocks = 0;

    Cut(int64_t rows, int64_t columns, int64_t columns_per_thread) {
        columns_per_block = 32 * columns_per_thread;
        column_blocks = (columns + columns_per_block - 1) / columns_per_block;
        // About 1,024 blocks of at least 64 rows: enough to fill the card, and few partial sums.
        constexpr int64_t step = warps * rows_in_flight;
        const int64_t wanted = rows * column_blocks / 1024;
        rows_per_block = std::clamp((wanted + step - 1) / step * step, step, 16 * step);
        row_blocks = (rows + rows_per_block - 1) / rows_per_block;
    }
};

// Moves one read of x. A warp reads 16 bytes a lane of a row; its warps take every eighth row.
template <typename T, int N>
__global__ void __launch_bounds__(threads)
    sum_blocks(float* parts, const T* x, int64_t rows, int64_t columns, int64_t rows_per_block) {
    const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
    const int64_t column = (int64_t{blockIdx.x} * 32 + lane) * N;
    const int64_t begin = int64_t{blockIdx.y} * rows_per_block;
    const int64_t end = min(begin + rows_per_block, rows);
    float sums[N] = {};
    if (column < columns) {
        int64_t r = begin + warp;
        for (; r + (rows_in_flight - 1) * warps < end; r += rows_in_flight * warps) {
            Vector<T, N> values[rows_in_flight];
#pragma unroll
            for (int i = 0; i < rows_in_flight; ++i)
                values[i] = load<N>(x + (r + i * warps) * columns + column);
#pragma unroll
            for (int i = 0; i < rows_in_flight; ++i)
#pragma unroll
                for (int j = 0; j < N; ++j)
                    sums[j] += to_float(values[i].values[j]);
        }
        for (; r < end; r += warps) {
            const auto values = load<N>(x + r * columns + column);
#pragma unroll
            for (int j = 0; j < N; ++j)
                sums[j] += to_float(values.values[j]);
        }
    }
    __shared__ float shared[warps][32 * N];
#pragma unroll
    for (int j = 0; j < N; ++j)
        shared[warp][j * 32 + lane] = sums[j];
    __syncthreads();
    for (int at = static_cast<int>(threadIdx.x); at < 32 * N; at += threads) {
        float sum = 0.0f;
#pragma unroll
        for (int w = 0; w < warps; ++w)
            sum += shared[w][at % N * 32 + at / N];
        const int64_t to = int64_t{blockIdx.x} * 32 * N + at;
        if (to < columns) parts[int64_t{blockIdx.y} * columns + to] = sum;
    }
}

__global__ void __launch_bounds__(last_columns* last_rows)
    sum_parts(float* out, const float* parts, int64_t rows, int64_t columns) {
    const int x = static_cast<int>(threadIdx.x), y = static_cast<int>(threadIdx.y);
    const int64_t column = int64_t{blockIdx.x} * last_columns + x;
    float sum = 0.0f;
    if (column < columns)
#pragma unroll 8
        for (int64_t r = y; r < rows; r += last_rows)
            sum += parts[r * columns + column];
    __shared__ float shared[last_rows][last_columns + 1];
    shared[y][x] = sum;
    __syncthreads();
#pragma unroll
    for (int half = last_rows / 2; half > 0; half /= 2) {
        if (y < half) shared[y][x] += shared[y + half][x];
        __syncthreads();
    }
    if (y == 0 && column < columns) out[column] = shared[0][x];
}

/// Few rows of floats, such as those of another kernel's partial sums: the last stage alone.
template <typename T>
bool is_one_stage(int64_t rows) {
    return std::is_same_v<T, float> && rows <= 1024;
}

}  // namespace

size_t column_sum_scratch(int64_t rows, int64_t columns, size_t element) {
    const auto wide = static_cast<int64_t>(16 / element);
    // The single columns of narrow or odd shapes are cut into the most blocks of rows.
    const int64_t blocks =
        std::max(Cut(rows, columns, wide).row_blocks, Cut(rows, columns, 1).row_blocks);
    return static_cast<size_t>(blocks * columns) * sizeof(float);
}

template <typename T>
void sum_columns(float* out, const T* x, int64_t rows, int64_t columns, void* scratch,
                 Queue& queue) {
    if (columns == 0) return;
    if (rows == 0) return queue.set_zero(out, static_cast<size_t>(columns) * sizeof(float));
    const dim3 last_block(last_columns, last_rows);
    const unsigned last_blocks = blocks_for(columns, last_columns);
    const auto finish = [&](const float* parts, int64_t count) {
        sum_parts<<<last_blocks, last_block, 0, queue.stream()>>>(out, parts, count, columns);
        CUDA_CHECK_LAUNCH("column_sum");
    };
    if constexpr (std::is_same_v<T, float>)
        if (is_one_stage<T>(rows)) return finish(x, rows);
    auto* parts = static_cast<float*>(scratch);
    const auto sum = [&]<int N>(std::integral_constant<int, N>) {
        const Cut cut(rows, columns, N);
        const dim3 grid(static_cast<unsigned>(cut.column_blocks),
                        static_cast<unsigned>(cut.row_blocks));
        sum_blocks<T, N>
            <<<grid, threads, 0, queue.stream()>>>(parts, x, rows, columns, cut.rows_per_block);
        CUDA_CHECK_LAUNCH("column_sum");
        finish(parts, cut.row_blocks);
    };
    if (columns % widest<T> == 0 && is_aligned(x, 16))
        sum(std::integral_constant<int, widest<T>>{});
    else
        sum(std::integral_constant<int, 1>{});
}

template void sum_columns(float*, const float*, int64_t, int64_t, void*, Queue&);
template void sum_columns(float*, const BFloat16*, int64_t, int64_t, void*, Queue&);

void column_sum(View dbias, ConstView dy, Stream& stream) {
    CHECK(dbias.elements() == dy.dim(-1) && dy.is_contiguous(), "column_sum: {} from {}",
          dbias.shape.text(), dy.shape.text());
    Queue& queue = queue_of(stream);
    const int64_t rows = dy.shape.rows(), columns = dy.dim(-1);
    void* scratch = queue.scratch(column_sum_scratch(rows, columns, size_of(dy.dtype)));
    with_device_float(dy.dtype, "column_sum", [&]<typename T>(T) {
        sum_columns(dbias.as<float>(), dy.as<T>(), rows, columns, scratch, queue);
    });
}

PLINTH_CUDA_KERNEL(column_sum);

}  // namespace plinth::kernels::cuda
