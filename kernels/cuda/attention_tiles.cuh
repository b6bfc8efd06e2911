// SPDX-License-Identifier: Apache-2.0
// What the tiled forward and backward kernels of attention share. A block of 16 x 16 threads works
// on a square tile of scores, rows x rows: thread (ty, tx) holds those of rows ty * each + i and
// columns tx * each + j. All sums are of fp32 fused multiply-adds in a fixed order.
#pragma once

#include "kernels/cuda/attention_problem.cuh"
#include "kernels/math.h"

namespace plinth::kernels::cuda {

inline constexpr int attention_threads = 256;
inline constexpr int largest_attention_width = 256;

/// Extents, in floats, of the tiles for head widths up to Width.
template <int Width>
struct Tiles {
    static constexpr int rows = Width <= 128 ? 64 : 32;  ///< queries or keys of a tile
    static constexpr int each = rows / 16;               ///< rows and columns of a thread
    /// From one row to the next. 4 (mod 32): 16-byte reads of neighbouring rows meet other banks.
    static constexpr int stride = Width + 4;
    static constexpr int score_stride = rows + 4;
    static constexpr int vector = Width / 16 < 4 ? Width / 16 : 4;  ///< columns read at once
    static constexpr int chunks = Width / (16 * vector);
    static constexpr int columns = vector * chunks;  ///< output columns of a thread
    static constexpr int size = rows * stride;
    static constexpr int score_size = rows * score_stride;
    // The backward pass needs the most shared memory, beside it documents and numbers of the rows.
    // A block may have 163 KiB on compute capability 8.0, 227 KiB on 9.0 and 10.0.
    static_assert((4 * size + score_size + 4 * rows) * sizeof(float) <= 163 * 1024);
};

/// How a block's tokens are loaded; see load_tile.
struct TileLoad {
    int first;     ///< token of row 0
    int limit;     ///< tokens from this one on are zeros
    int width;     ///< columns from this one on are zeros
    float scale;   ///< of every element
    bool vectors;  ///< four elements at once: rows and columns begin at multiples of four
};

/// Place of a row in a tile. The rows that a thread meets as its columns, tx * each + j, lie
/// interleaved, so that threads side by side read rows side by side.
template <int Width, bool Interleaved>
__device__ constexpr int place_of(int row) {
    constexpr int each = Tiles<Width>::each;
    return Interleaved ? row % each * 16 + row / each : row;
}

/// tile[place][0..Width) = scale * tokens first .. first + rows.
template <int Width, bool Interleaved, typename T>
__device__ void load_tile(float* tile, TokenRows<const T> tokens, const TileLoad& load) {
    constexpr int rows = Tiles<Width>::rows, stride = Tiles<Width>::stride, quads = Width / 4;
    if (load.vectors) {
#pragma unroll 4
        for (int index = static_cast<int>(threadIdx.x); index < rows * quads;
             index += attention_threads) {
            const int row = index / quads, column = index % quads * 4;
            float4 values{0.0f, 0.0f, 0.0f, 0.0f};
            if (load.first + row < load.limit && column < load.width) {
                const auto in =
                    *reinterpret_cast<const Vector<T, 4>*>(tokens.row(load.first + row) + column);
                values = {load.scale * to_float(in.values[0]), load.scale * to_float(in.values[1]),
                          load.scale * to_float(in.values[2]), load.scale * to_float(in.values[3])};
            }
            *reinterpret_cast<float4*>(tile + place_of<Width, Interleaved>(row) * stride + column) =
                values;
        }
        return;
    }
    for (int index = static_cast<int>(threadIdx.x); index < rows * Width;
         index += attention_threads) {
        const int row = index / Width, column = index % Width;
        const bool is_inside = load.first + row < load.limit && column < load.width;
        tile[place_of<Width, Interleaved>(row) * stride + column] =
            is_inside ? load.scale * to_float(tokens.row(load.first + row)[column]) : 0.0f;
    }
}

template <int Width>
using Scores = float[Tiles<Width>::each][Tiles<Width>::each];
template <int Width>
using Sums = float[Tiles<Width>::each][Tiles<Width>::columns];

__device__ inline int thread_row() {
    return static_cast<int>(threadIdx.x) / 16;
}
__device__ inline int thread_column() {
    return static_cast<int>(threadIdx.x) % 16;
}

/// scores[i][j] = row ty * each + i of `left` times row tx * each + j of `right`, interleaved.
template <int Width>
__device__ void multiply(Scores<Width>& scores, const float* left, const float* right, int width) {
    constexpr int each = Tiles<Width>::each, stride = Tiles<Width>::stride;
    const float* left_row = left + thread_row() * each * stride;
    const float* right_row = right + thread_column() * stride;
#pragma unroll
    for (int i = 0; i < each; ++i)
#pragma unroll
        for (int j = 0; j < each; ++j)
            scores[i][j] = 0.0f;
#pragma unroll 2
    for (int d = 0; d < width; d += 4) {
        float4 a[each], b[each];
#pragma unroll
        for (int i = 0; i < each; ++i) {
            a[i] = *reinterpret_cast<const float4*>(left_row + i * stride + d);
            b[i] = *reinterpret_cast<const float4*>(right_row + i * 16 * stride + d);
        }
#pragma unroll
        for (int i = 0; i < each; ++i)
#pragma unroll
            for (int j = 0; j < each; ++j) {
                float sum = fmaf(a[i].x, b[j].x, scores[i][j]);
                sum = fmaf(a[i].y, b[j].y, sum);
                sum = fmaf(a[i].z, b[j].z, sum);
                scores[i][j] = fmaf(a[i].w, b[j].w, sum);
            }
    }
}

/// The thread's scores into the tile that `accumulate` reads. Only its warp reads these rows.
template <int Width>
__device__ void store_scores(float* tile, const Scores<Width>& scores) {
    constexpr int each = Tiles<Width>::each;
#pragma unroll
    for (int i = 0; i < each; ++i) {
        Vector<float, each> row;
#pragma unroll
        for (int j = 0; j < each; ++j)
            row.values[j] = scores[i][j];
        *reinterpret_cast<Vector<float, each>*>(
            tile + (thread_row() * each + i) * Tiles<Width>::score_stride +
            thread_column() * each) = row;
    }
}

/// sums[i] += row ty * each + i of `weights` [rows][rows] times `right` [rows][Width], interleaved.
/// Column c * vector + x of a thread is column (16 c + tx) * vector + x of the tile.
template <int Width>
__device__ void accumulate(Sums<Width>& sums, const float* weights, const float* right) {
    using Tile = Tiles<Width>;
    const float* weight_row = weights + thread_row() * Tile::each * Tile::score_stride;
    const float* column = right + thread_column() * Tile::vector;
#pragma unroll 2
    for (int k = 0; k < Tile::rows; k += 4) {
        Vector<float, 4> weight[Tile::each];
#pragma unroll
        for (int i = 0; i < Tile::each; ++i)
            weight[i] =
                *reinterpret_cast<const Vector<float, 4>*>(weight_row + i * Tile::score_stride + k);
#pragma unroll
        for (int step = 0; step < 4; ++step) {
            const float* row = column + place_of<Width, true>(k + step) * Tile::stride;
#pragma unroll
            for (int c = 0; c < Tile::chunks; ++c) {
                const auto value = *reinterpret_cast<const Vector<float, Tile::vector>*>(
                    row + c * 16 * Tile::vector);
#pragma unroll
                for (int i = 0; i < Tile::each; ++i)
#pragma unroll
                    for (int x = 0; x < Tile::vector; ++x)
                        sums[i][c * Tile::vector + x] = fmaf(
                            weight[i].values[step], value.values[x], sums[i][c * Tile::vector + x]);
            }
        }
    }
}

template <int Width>
__device__ void set_zero(Sums<Width>& sums) {
#pragma unroll
    for (int i = 0; i < Tiles<Width>::each; ++i)
#pragma unroll
        for (int c = 0; c < Tiles<Width>::columns; ++c)
            sums[i][c] = 0.0f;
}

/// Calls body(element of a row of the sums, its column) for the columns below `width`.
template <int Width, typename Body>
__device__ void for_columns(int width, Body&& body) {
    using Tile = Tiles<Width>;
#pragma unroll
    for (int c = 0; c < Tile::chunks; ++c)
#pragma unroll
        for (int x = 0; x < Tile::vector; ++x) {
            const int column = (16 * c + thread_column()) * Tile::vector + x;
            if (column < width) body(c * Tile::vector + x, column);
        }
}

/// Token `to` = scale * row i of the sums, the columns below `width`.
template <int Width, typename T>
__device__ void store_sums(T* to, const float (&row)[Tiles<Width>::columns], float scale,
                           int width) {
    for_columns<Width>(width,
                       [&](int i, int column) { to[column] = from_float<T>(scale * row[i]); });
}

/// Row i of the sums = token `from`, in the columns below `width`; the others stay.
template <int Width>
__device__ void load_sums(float (&row)[Tiles<Width>::columns], const float* from, int width) {
    for_columns<Width>(width, [&](int i, int column) { row[i] = from[column]; });
}

/// Token `to` += scale * row i of the sums, the columns below `width`.
template <int Width>
__device__ void add_sums(float* to, const float (&row)[Tiles<Width>::columns], float scale,
                         int width) {
    float before[Tiles<Width>::columns];  // all loaded before the first is stored
    load_sums<Width>(before, to, width);
    for_columns<Width>(width, [&](int i, int column) { to[column] = before[i] + scale * row[i]; });
}

/// Numbers of the documents of a block's queries and keys, in shared memory.
template <int Width>
struct TileDocuments {
    int32_t of_row[Tiles<Width>::rows], of_column[Tiles<Width>::rows];
};

/// documents[i] = that of token first + i of a run.
__device__ inline void load_documents(int32_t* documents, const int32_t* of_token, int first,
                                      int limit, int rows) {
    const int i = static_cast<int>(threadIdx.x);
    if (i < rows) documents[i] = first + i < limit ? of_token[first + i] : 0;
}

/// Calls body with the tile width that serves head widths up to this one, as a constant.
template <typename Body>
void with_tile_width(int64_t width, Body&& body) {
    CHECK(width <= largest_attention_width,
          "attention: a head width of {} is more than the {} of the CUDA kernels", width,
          largest_attention_width);
    if (width <= 32) return body(std::integral_constant<int, 32>{});
    if (width <= 64) return body(std::integral_constant<int, 64>{});
    if (width <= 128) return body(std::integral_constant<int, 128>{});
    body(std::integral_constant<int, 256>{});
}

/// A kernel whose blocks want that many floats of shared memory.
template <typename Kernel>
unsigned allow_shared_floats(Kernel kernel, int floats) {
    const int bytes = floats * static_cast<int>(sizeof(float));
    CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
    return static_cast<unsigned>(bytes);
}

}  // namespace plinth::kernels::cuda
