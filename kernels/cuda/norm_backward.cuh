// SPDX-License-Identifier: Apache-2.0
// The backward pass that layer_norm and rms_norm share. A thread block takes the rows of one block
// of norm_rows_per_block and reads dy and x once: a group of warps holds a row in registers, makes
// its dx, and keeps its columns' sums of dy h and dy in registers too, over all rows of the group.
// At the end the groups' sums are added in the order of the groups.
#pragma once

#include "kernels/cuda/held_row.cuh"
#include "kernels/layer_norm.h"

namespace plinth::kernels::cuda {

/// dweight_blocks and dbias_blocks are [norm_blocks(rows), width]; they, dx and dsum may be null.
template <typename T>
struct NormGradient {
    T* dx = nullptr;
    float* dweight_blocks = nullptr;
    float* dbias_blocks = nullptr;
    const T* dy = nullptr;
    const T* dsum = nullptr;  ///< added to dx, which it may be
    const T* x = nullptr;
    const float* weight = nullptr;
    const float* mean = nullptr;  ///< read only if centred
    const float* rstd = nullptr;
    int64_t rows = 0;
    int width = 0;
};

constexpr int norm_threads = 512;

/// Sums of two values over the `row_threads` threads that share a row, in a fixed order; every
/// thread gets them. Groups of more than a warp meet at a barrier of their own; `turn` alternates,
/// so that a slow reader of one row's parts does not see those of the next.
__device__ inline float2 sum_over_group(float2 value, int row_threads, int turn) {
    __shared__ float2 parts[2][norm_threads / 32];
    value.x = warp_sum(value.x);
    value.y = warp_sum(value.y);
    if (row_threads == 32) return value;
    const int warp = static_cast<int>(threadIdx.x) / 32, warps = row_threads / 32;
    const int group = warp / warps;
    if (threadIdx.x % 32 == 0) parts[turn][warp] = value;
    asm volatile("bar.sync %0, %1;" ::"r"(group + 1), "r"(row_threads) : "memory");
    float2 total{0.0f, 0.0f};
    for (int i = group * warps; i < (group + 1) * warps; ++i) {
        total.x += parts[turn][i].x;
        total.y += parts[turn][i].y;
    }
    return total;
}

/// These two keep the compiler from holding what it read or made earlier in registers that are
/// needed for the sums: from here on it must be read or made again.
template <typename T, int N>
__device__ inline void forget_unpacked(Vector<T, N>& values) {
    static_assert(sizeof(values) == 16);
    auto words = std::bit_cast<uint4>(values);
    asm volatile("" : "+r"(words.x), "+r"(words.y), "+r"(words.z), "+r"(words.w));
    values = std::bit_cast<Vector<T, N>>(words);
}

__device__ inline void forget_loads(const float*& pointer) {
    asm volatile("" : "+l"(pointer));
}

/// out[column] = sum over the groups of their threads' values, for the columns whose sums the
/// threads hold in vector k.
template <int N>
__device__ void add_groups(float* out, const float (&mine)[N], int k, int row_threads,
                           int vectors) {
    __shared__ float shared[norm_threads * N];
    __syncthreads();
#pragma unroll
    for (int j = 0; j < N; ++j)
        shared[threadIdx.x * N + j] = mine[j];
    __syncthreads();
    const int first = k * row_threads * N, count = min(row_threads * N, vectors * N - first);
    for (int column = static_cast<int>(threadIdx.x); column < count; column += norm_threads) {
        float sum = 0.0f;
        for (int at = column; at < norm_threads * N; at += row_threads * N)
            sum += shared[at];
        out[first + column] = sum;
    }
}

template <typename T, int N, int held, bool is_centred>
__global__ void __launch_bounds__(norm_threads, 1)
    norm_backward_rows(NormGradient<T> p, int row_threads) {
    const int lane = static_cast<int>(threadIdx.x) % row_threads;
    const int group = static_cast<int>(threadIdx.x) / row_threads;
    const int groups = norm_threads / row_threads, vectors = p.width / N;
    const int64_t begin = int64_t{blockIdx.x} * norm_rows_per_block;
    const int64_t end = min(begin + norm_rows_per_block, p.rows);
    // dsum is read with dy and x where its registers spill none of the others: by what ptxas says
    // for sm_90, up to this many of a thread's are sums and 16-byte vectors.
    constexpr bool is_early = held * (N * (is_centred ? 2 : 1) + 12) <= 64;
    float dweight[held][N] = {}, dbias[is_centred ? held : 1][N] = {};
    int turn = 0;
    for (int64_t r = begin + group; r < end; r += groups, turn ^= 1) {
        Vector<T, N> d[held], x[held], elsewhere[is_early ? held : 1];
#pragma unroll
        for (int k = 0; k < held; ++k)
            if (lane + k * row_threads < vectors) {
                const int64_t at = r * p.width + (lane + k * row_threads) * N;
                d[k] = load<N>(p.dy + at);
                x[k] = load<N>(p.x + at);
                if constexpr (is_early)
                    if (p.dsum) elsewhere[k] = load<N>(p.dsum + at);
            }
        const float m = is_centred ? p.mean[r] : 0.0f, s = p.rstd[r];
        float2 sums{0.0f, 0.0f};  // of g and g h
#pragma unroll
        for (int k = 0; k < held; ++k)
            if (lane + k * row_threads < vectors) {
                const auto w = load<N>(p.weight + (lane + k * row_threads) * N);
#pragma unroll
                for (int j = 0; j < N; ++j) {
                    const float gradient = to_float(d[k].values[j]);
                    const float h = (to_float(x[k].values[j]) - m) * s;
                    const float g = gradient * w.values[j];
                    dweight[k][j] = fmaf(gradient, h, dweight[k][j]);
                    if constexpr (is_centred) {
                        dbias[k][j] += gradient;
                        sums.x += g;
                    }
                    sums.y = fmaf(g, h, sums.y);
                }
            }
        if (!p.dx) continue;
        sums = sum_over_group(sums, row_threads, turn);
        const float mean_g = sums.x / static_cast<float>(p.width);
        const float mean_gh = sums.y / static_cast<float>(p.width);
        const float* weight = p.weight;
        forget_loads(weight);
#pragma unroll
        for (int k = 0; k < held; ++k)
            if (lane + k * row_threads < vectors) {
                const int column = (lane + k * row_threads) * N;
                const auto w = load<N>(weight + column);
                forget_unpacked(d[k]);
                forget_unpacked(x[k]);
                float dx[N];
#pragma unroll
                for (int j = 0; j < N; ++j) {
                    const float h = (to_float(x[k].values[j]) - m) * s;
                    const float g = to_float(d[k].values[j]) * w.values[j];
                    dx[j] = s * (fmaf(-h, mean_gh, is_centred ? g - mean_g : g));
                }
                const int64_t at = r * p.width + column;
                if constexpr (!is_early)
                    if (p.dsum) elsewhere[0] = load<N>(p.dsum + at);
                store(p.dx + at,
                      p.dsum ? plus(elsewhere[is_early ? k : 0], rounded<T>(dx)) : rounded<T>(dx));
            }
    }
    const int64_t block = int64_t{blockIdx.x} * p.width;
#pragma unroll
    for (int k = 0; k < held; ++k) {
        if (k * row_threads >= vectors) break;
        if (p.dweight_blocks)
            add_groups(p.dweight_blocks + block, dweight[k], k, row_threads, vectors);
        if constexpr (is_centred)
            if (p.dbias_blocks)
                add_groups(p.dbias_blocks + block, dbias[k], k, row_threads, vectors);
    }
}

/// The two halves for rows that do not fit: of a width that is no multiple of a vector, or beyond
/// the registers. A thread sums a column.
template <typename T, bool is_centred>
__global__ void norm_column_gradients(NormGradient<T> p) {
    const int column = static_cast<int>(blockIdx.y * blockDim.x + threadIdx.x);
    if (column >= p.width) return;
    const int64_t begin = int64_t{blockIdx.x} * norm_rows_per_block;
    const int64_t end = min(begin + norm_rows_per_block, p.rows);
    float dweight = 0.0f, dbias = 0.0f;
#pragma unroll 4
    for (int64_t r = begin; r < end; ++r) {
        const float gradient = to_float(p.dy[r * p.width + column]);
        const float centre = is_centred ? p.mean[r] : 0.0f;
        const float h = (to_float(p.x[r * p.width + column]) - centre) * p.rstd[r];
        dweight = fmaf(gradient, h, dweight);
        dbias += gradient;
    }
    const int64_t at = int64_t{blockIdx.x} * p.width + column;
    if (p.dweight_blocks) p.dweight_blocks[at] = dweight;
    if (p.dbias_blocks) p.dbias_blocks[at] = dbias;
}

/// A block of threads takes a row, and reads it twice.
template <typename T, bool is_centred>
__global__ void norm_input_gradients(NormGradient<T> p) {
    const int64_t r = blockIdx.x, row = r * p.width;
    const float m = is_centred ? p.mean[r] : 0.0f, s = p.rstd[r];
    float sum_g = 0.0f, sum_gh = 0.0f;
    for (int i = static_cast<int>(threadIdx.x); i < p.width; i += static_cast<int>(blockDim.x)) {
        const float g = to_float(p.dy[row + i]) * p.weight[i];
        if constexpr (is_centred) sum_g += g;
        sum_gh = fmaf(g, (to_float(p.x[row + i]) - m) * s, sum_gh);
    }
    const float mean_g = is_centred ? block_sum(sum_g) / static_cast<float>(p.width) : 0.0f;
    const float mean_gh = block_sum(sum_gh) / static_cast<float>(p.width);
    for (int i = static_cast<int>(threadIdx.x); i < p.width; i += static_cast<int>(blockDim.x)) {
        const float g = to_float(p.dy[row + i]) * p.weight[i];
        const float h = (to_float(p.x[row + i]) - m) * s;
        const T dx = from_float<T>(s * fmaf(-h, mean_gh, g - mean_g));
        p.dx[row + i] = p.dsum ? from_float<T>(to_float(p.dsum[row + i]) + to_float(dx)) : dx;
    }
}

/// Launches what fits the shape. Moves two reads and one write of the rows, with dsum three reads.
template <typename T, bool is_centred>
void norm_backward(const NormGradient<T>& p, Queue& queue) {
    constexpr int n = widest<T>, most_held = 32 / n;  // 32 columns a thread
    const auto blocks = static_cast<unsigned>(norm_blocks(p.rows));
    const bool is_wide = is_aligned(p.dy, 16) && is_aligned(p.x, 16) && is_aligned(p.dx, 16) &&
                         is_aligned(p.dsum, 16) && is_aligned(p.weight, 32) && p.width % n == 0;
    if (!is_wide || p.width > norm_threads * n * most_held) {
        // The columns first: dx may be dy.
        constexpr int threads = 256;
        if (p.dweight_blocks || p.dbias_blocks) {
            norm_column_gradients<T, is_centred>
                <<<dim3(blocks, blocks_for(p.width, threads)), threads, 0, queue.stream()>>>(p);
            CUDA_CHECK_LAUNCH("norm_column_gradients");
        }
        if (p.dx) {
            norm_input_gradients<T, is_centred>
                <<<static_cast<unsigned>(p.rows), threads, 0, queue.stream()>>>(p);
            CUDA_CHECK_LAUNCH("norm_input_gradients");
        }
        return;
    }
    int row_threads = 32;  // more where a thread would have more than 24 columns: sums would spill
    while (row_threads * 24 < p.width && row_threads < norm_threads)
        row_threads *= 2;
    const auto launch = [&](auto held) {
        norm_backward_rows<T, n, held(), is_centred>
            <<<blocks, norm_threads, 0, queue.stream()>>>(p, row_threads);
    };
    const int share = (p.width / n + row_threads - 1) / row_threads;
    if (share * 4 <= most_held)
        launch(std::integral_constant<int, most_held / 4>{});
    else if (share * 2 <= most_held)
        launch(std::integral_constant<int, most_held / 2>{});
    else if (share * 4 <= most_held * 3)
        launch(std::integral_constant<int, most_held * 3 / 4>{});
    else
        launch(std::integral_constant<int, most_held>{});
    CUDA_CHECK_LAUNCH("norm_backward");
}

}  // namespace plinth::kernels::cuda
