// SPDX-License-Identifier: Apache-2.0
// What the kernels of attention on tensor cores share (the form of Dao, "FlashAttention-2", 2023).
// A block is four warps; a warp holds sixteen rows of a product, or twice sixteen, against all
// columns of the tile that passes, so that rows never meet another warp. Factors are bf16, sums
// fp32, and the order of each sum is fixed. Tiles lie in shared memory, row by row.
#pragma once

#include "kernels/cuda/attention_problem.cuh"
#include "kernels/cuda/tensor_core.cuh"
#include "kernels/cuda/tensor_core_layout.h"
#include "kernels/cuda/tensor_core_tiles.h"

namespace plinth::kernels::cuda::tensor_core {

inline constexpr float log2_of_e = 0x1.715476p+0f, ln_of_2 = 0x1.62e430p-1f;

__device__ inline int lane_index() {
    return static_cast<int>(threadIdx.x) % 32;
}
__device__ inline int warp_index() {
    return static_cast<int>(threadIdx.x) / 32;
}

/// A lane's part of 16 * Blocks rows of fp32 sums: of each [16, 8], four.
template <int Blocks, int Columns>
using Sums = float[Blocks][Columns / 8][4];

/// A lane's part of a left factor [16, 16].
struct LeftFactor {
    uint32_t words[4];
};

template <int Blocks, int Columns>
__device__ void set_zero(Sums<Blocks, Columns>& sums) {
#pragma unroll
    for (int m = 0; m < Blocks; ++m)
#pragma unroll
        for (int n = 0; n < Columns / 8; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i)
                sums[m][n][i] = 0.0f;
}

/// Calls body(sum, row, column) for the lane's sums; rows are those of the warp.
template <int Blocks, int Columns, typename Body>
__device__ void for_sums(Sums<Blocks, Columns>& sums, Body&& body) {
    const MatrixElement at = sum_element(lane_index(), 0);
#pragma unroll
    for (int m = 0; m < Blocks; ++m)
#pragma unroll
        for (int n = 0; n < Columns / 8; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i)
                body(sums[m][n][i], 16 * m + at.row + i / 2 * 8, 8 * n + at.column + i % 2);
}

/// Begins to copy tokens [first, first + Rows) to a tile; zeros behind `limit` and `width`.
template <int Width, int Rows>
__device__ void copy_tile(BFloat16* tile, TokenRows<const BFloat16> tokens, int first, int limit,
                          int width) {
    constexpr int in_row = Width / 8;
#pragma unroll 1  // else the addresses of all take registers throughout a kernel
    for (int i = 0; i < Rows * in_row / threads; ++i) {
        const int index = i * threads + static_cast<int>(threadIdx.x);
        const int row = index / in_row, column = index % in_row * 8;
        const bool is_inside = first + row < limit && column < width;
        copy_async_16(tile + row * row_stride(Width) + column,
                      is_inside ? tokens.row(first + row) + column : tokens.data,
                      is_inside ? 16 : 0);
    }
}

/// Rows 0 to 15, columns 16 * step and on, of a tile with rows of Width.
template <int Width>
__device__ LeftFactor load_left(const BFloat16* tile, int step) {
    const MatrixElement at = left_address(lane_index());
    LeftFactor left;
    load_matrix_x4(left.words, tile + at.row * row_stride(Width) + 16 * step + at.column);
    return left;
}

/// sums = left [16 * Blocks, Width] right^T, of the rows right [Columns, Width]; left(m, step)
/// gives columns 16 * step and on of block m.
template <int Width, int Blocks, int Columns, typename Left>
__device__ void multiply(Sums<Blocks, Columns>& sums, Left&& left, const BFloat16* right) {
    set_zero<Blocks, Columns>(sums);
    const MatrixElement at = right_address(lane_index());
    right += at.row * row_stride(Width) + at.column;
#pragma unroll
    for (int step = 0; step < Width / 16; ++step) {
        LeftFactor rows[Blocks];
#pragma unroll
        for (int m = 0; m < Blocks; ++m)
            rows[m] = left(m, step);
#pragma unroll
        for (int n = 0; n < Columns / 16; ++n) {
            uint32_t columns[4];
            load_matrix_x4(columns, right + n * 16 * row_stride(Width) + 16 * step);
#pragma unroll
            for (int m = 0; m < Blocks; ++m) {
                mma_16x8x16(sums[m][2 * n], rows[m].words, columns[0], columns[1]);
                mma_16x8x16(sums[m][2 * n + 1], rows[m].words, columns[2], columns[3]);
            }
        }
    }
}

__device__ inline uint32_t rounded_pair(float low, float high) {
    return std::bit_cast<uint32_t>(
        static_cast<__nv_bfloat162_raw>(__floats2bfloat162_rn(low, high)));
}

/// sums += weights [16 * Blocks, Depth], rounded to bf16, times right [Depth, Width]. `prepare(n)`
/// comes before columns 8 * n and on of the weights are read.
template <int Width, int Blocks, int Depth, typename Prepare>
__device__ void accumulate(Sums<Blocks, Width>& sums, const Sums<Blocks, Depth>& weights,
                           const BFloat16* right, Prepare&& prepare) {
    const MatrixElement at = right_transposed_address(lane_index());
    right += at.row * row_stride(Width) + at.column;
#pragma unroll
    for (int step = 0; step < Depth / 16; ++step) {
        prepare(2 * step);
        prepare(2 * step + 1);
        LeftFactor rows[Blocks];
#pragma unroll
        for (int m = 0; m < Blocks; ++m)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const float* pair = weights[m][2 * step + i / 2] + i % 2 * 2;
                rows[m].words[i] = rounded_pair(pair[0], pair[1]);
            }
#pragma unroll
        for (int n = 0; n < Width / 16; ++n) {
            uint32_t columns[4];
            load_matrix_x4_transposed(columns, right + step * 16 * row_stride(Width) + 16 * n);
#pragma unroll
            for (int m = 0; m < Blocks; ++m) {
                mma_16x8x16(sums[m][2 * n], rows[m].words, columns[0], columns[1]);
                mma_16x8x16(sums[m][2 * n + 1], rows[m].words, columns[2], columns[3]);
            }
        }
    }
}

template <int Width, int Blocks, int Depth>
__device__ void accumulate(Sums<Blocks, Width>& sums, const Sums<Blocks, Depth>& weights,
                           const BFloat16* right) {
    accumulate<Width, Blocks, Depth>(sums, weights, right, [](int) {});
}

/// The warp's rows of a result, `scale(m, half)` times the sums of row l / 4 + 8 half of block m:
/// tokens `first` and on, below `limit`. They go through `tile`, the warp's own rows of a tile that
/// no other warp reads any more, so that 16 bytes are stored at once.
template <int Width, int Blocks, typename Scale>
__device__ void store_rows(TokenRows<BFloat16> tokens, const Sums<Blocks, Width>& sums,
                           Scale&& scale, int first, int limit, int width, BFloat16* tile) {
    __syncwarp();
    const MatrixElement at = sum_element(lane_index(), 0);
#pragma unroll
    for (int m = 0; m < Blocks; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            BFloat16* row = tile + (16 * m + at.row + 8 * half) * row_stride(Width) + at.column;
            const float factor = scale(m, half);
#pragma unroll
            for (int n = 0; n < Width / 8; ++n)
                *reinterpret_cast<uint32_t*>(row + 8 * n) =
                    rounded_pair(factor * sums[m][n][2 * half], factor * sums[m][n][2 * half + 1]);
        }
    __syncwarp();
    constexpr int in_row = Width / 8;
#pragma unroll
    for (int i = 0; i < 16 * Blocks * in_row / 32; ++i) {
        const int index = i * 32 + lane_index();
        const int row = index / in_row, column = index % in_row * 8;
        if (first + row < limit && column < width)
            *reinterpret_cast<uint4*>(tokens.row(first + row) + column) =
                *reinterpret_cast<const uint4*>(tile + row * row_stride(Width) + column);
    }
}

/// The same as fp32, or added to what is there.
template <int Width, int Blocks, typename Scale>
__device__ void store_rows(TokenRows<float> tokens, const Sums<Blocks, Width>& sums, Scale&& scale,
                           int first, int limit, int width, bool adds) {
    const MatrixElement at = sum_element(lane_index(), 0);
#pragma unroll
    for (int m = 0; m < Blocks; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int row = first + 16 * m + at.row + 8 * half;
            if (row >= limit) continue;
            float* to = tokens.row(row) + at.column;
            const float factor = scale(m, half);
#pragma unroll
            for (int n = 0; n < Width / 8; ++n)
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    if (8 * n + at.column >= width) continue;
                    const float value = factor * sums[m][n][2 * half + i];
                    to[8 * n + i] = adds ? to[8 * n + i] + value : value;
                }
        }
}

/// Documents of the runs of queries and keys, by which tiles are left out.
struct RunDocuments {
    DocumentRanges queries, keys;

    /// Floats of scratch that they take.
    static int64_t floats(const AttentionProblem& problem) {
        if (problem.documents == nullptr) return 0;
        return int64_t{2} * problem.batch *
               (DocumentRanges::pieces_of(problem.span.queries) +
                DocumentRanges::pieces_of(problem.span.keys));
    }
    /// Fills them in; `scratch` begins at a multiple of 8 bytes.
    static RunDocuments launch(const AttentionProblem& problem, float* scratch, const char* name,
                               Queue& queue);
};

/// ranges[b, i] of the tokens at positions first + 32 i and on, below `limit`: one warp each.
static __global__ void __launch_bounds__(threads)
    find_ranges(DocumentRange* ranges, const AttentionProblem problem, int first, int limit,
                int pieces) {
    const int64_t index = int64_t{blockIdx.x} * warps + warp_index();
    if (index >= int64_t{problem.batch} * pieces) return;
    const int sample = static_cast<int>(index / pieces), piece = static_cast<int>(index % pieces);
    const int position = first + piece * range_tokens + lane_index();
    DocumentRange range;
    if (position < limit) {
        const int32_t number = *problem.documents_from(sample, position);
        range = {number, number};
    }
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2)
        range = range.joined({__shfl_xor_sync(0xffffffffu, range.first, distance),
                              __shfl_xor_sync(0xffffffffu, range.last, distance)});
    if (lane_index() == 0) ranges[index] = range;
}

inline RunDocuments RunDocuments::launch(const AttentionProblem& problem, float* scratch,
                                         const char* name, Queue& queue) {
    if (problem.documents == nullptr) return {};
    auto* next = reinterpret_cast<DocumentRange*>(scratch);
    const auto find = [&](int first, int tokens) {
        const DocumentRanges ranges{next, DocumentRanges::pieces_of(tokens)};
        const int64_t count = int64_t{problem.batch} * ranges.pieces;
        find_ranges<<<blocks_for(count, warps), threads, 0, queue.stream()>>>(
            next, problem, first, first + tokens, ranges.pieces);
        CUDA_CHECK_LAUNCH(name);
        next += count;
        return ranges;
    };
    const AttentionSpan& span = problem.span;
    const DocumentRanges queries = find(span.first_query, span.queries);
    return {queries, find(span.first_key, span.keys)};
}

/// Scores to base 2, and masks, of one head of a sample.
struct ScoreMask {
    DeviceMask mask;           ///< its slope times log2(e)
    float scale;               ///< times log2(e)
    const int32_t* documents;  ///< by position; may be null
    int queries;               ///< queries from this position on do not exist

    static __device__ ScoreMask of(const AttentionProblem& problem, int sample, int head) {
        DeviceMask mask = DeviceMask::of(problem, head, problem.span);
        mask.slope *= log2_of_e;
        return {mask, problem.scale * log2_of_e, problem.documents_from(sample, 0),
                problem.span.first_query + problem.span.queries};
    }
    /// Of a product of a query and a key at these positions, which the query sees.
    __device__ float of_seen(float product, int query, int key) const {
        const float score = product * scale;
        return mask.slope != 0.0f ? score + mask.slope * static_cast<float>(key - query) : score;
    }
    /// Of one that may be masked, or need not be there: -infinity then.
    __device__ float of_any(float product, int query, int key) const {
        const bool same = documents == nullptr || (query < queries && key < mask.keys &&
                                                   documents[query] == documents[key]);
        return mask.of_score(product * scale, query, key, same);
    }
};

/// The lane's share of the random words of its sums of [16, 8] scores. Four of a query's weights
/// have one call of Philox, and lanes that hold parts of them share it: each lane calls once for
/// its four sums, and they exchange what they got.
struct DroppedWeights {
    DropoutNumbers numbers;
    uint32_t below;  ///< words below it drop the weight
    float kept;      ///< factor of the others

    static __device__ DroppedWeights of(const AttentionProblem& problem, int sample, int head) {
        return {DropoutNumbers::of(problem, sample, head), problem.dropped_below, problem.kept};
    }
    __device__ bool drops(uint32_t word) const { return word < below; }

    /// Rows are queries from position `query` on, columns keys from `key` on, a multiple of four.
    /// Two lanes side by side hold one query's four: the even one calls for row l / 4, the odd one
    /// for that eight below.
    __device__ std::array<uint32_t, 4> of_queries(int query, int key) const {
        const int lane = lane_index(), odd = lane % 2;
        const auto mine = numbers.words(query + lane / 4 + 8 * odd, key + lane % 4 / 2 * 4);
        const uint32_t first = __shfl_xor_sync(0xffffffffu, odd ? mine[0] : mine[2], 1);
        const uint32_t second = __shfl_xor_sync(0xffffffffu, odd ? mine[1] : mine[3], 1);
        if (odd) return {first, second, mine[2], mine[3]};
        return {mine[0], mine[1], first, second};
    }
    /// Rows are keys, columns queries. Four lanes hold a word each of the same four quadruples:
    /// lane l calls for that of sum l / 4 % 4, and the 4 x 4 words are transposed.
    __device__ std::array<uint32_t, 4> of_keys(int key, int query) const {
        const int lane = lane_index(), mine = lane / 4 % 4;
        const bool upper = mine >= 2, odd = mine % 2 != 0;
        const MatrixElement at = sum_element(lane, mine);
        const auto words = numbers.words(query + at.column, key + at.row / 4 * 4);
        // Words 2 and 3 of the lower two lanes against 0 and 1 of the upper two.
        const uint32_t a = __shfl_xor_sync(0xffffffffu, upper ? words[0] : words[2], 8);
        const uint32_t b = __shfl_xor_sync(0xffffffffu, upper ? words[1] : words[3], 8);
        const std::array<uint32_t, 4> half = {upper ? a : words[0], upper ? b : words[1],
                                              upper ? words[2] : a, upper ? words[3] : b};
        const uint32_t c = __shfl_xor_sync(0xffffffffu, odd ? half[0] : half[1], 4);
        const uint32_t d = __shfl_xor_sync(0xffffffffu, odd ? half[2] : half[3], 4);
        if (odd) return {c, half[1], d, half[3]};
        return {half[0], c, half[2], d};
    }
};

/// A kernel whose blocks want that much shared memory.
template <typename Kernel>
unsigned allow_shared_bytes(Kernel kernel, int bytes) {
    CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
    return static_cast<unsigned>(bytes);
}

/// Calls body with the tile width that serves heads of this many columns, as a constant.
template <typename Body>
void with_tile_width(int64_t width, Body&& body) {
    switch (tile_width(width)) {
        case 64:
            return body(std::integral_constant<int, 64>{});
        case 96:
            return body(std::integral_constant<int, 96>{});
        default:
            return body(std::integral_constant<int, 128>{});
    }
}

}  // namespace plinth::kernels::cuda::tensor_core
