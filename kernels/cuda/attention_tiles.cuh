// SPDX-License-Identifier: Apache-2.0
// What the tiled forward and backward kernels of attention share. A block of 16 x 16 threads works
// on a square tile of scores, rows x rows: thread (ty, tx) holds those of rows ty * each + i and
// columns tx * each + j. All sums are of fp32 fused multiply-adds in a fixed order.
#pragma once

#include "kernels/cuda/attention_problem.cuh"
#include "kernels/cuda/attention_state.h"
#include "kernels/cuda/attention_tile.h"
#include "kernels/math.h"

namespace plinth::kernels::cuda {

inline constexpr int attention_threads = 256;

/// An AttentionTile as a type.
template <int Width, int Rows>
struct TileOf {
    static constexpr AttentionTile extents{Width, Rows};
    static constexpr int width = Width;
    static constexpr int rows = Rows;       ///< queries or keys of a tile
    static constexpr int each = rows / 16;  ///< rows and columns of a thread
    static constexpr int stride = extents.stride(), score_stride = extents.score_stride();
    static constexpr int vector = Width / 16 < 4 ? Width / 16 : 4;  ///< columns read at once
    static constexpr int chunks = Width / (16 * vector);
    static constexpr int columns = vector * chunks;  ///< output columns of a thread
    static constexpr int size = extents.size(), score_size = extents.score_size();
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
template <typename Tile, bool Interleaved>
__device__ constexpr int place_of(int row) {
    constexpr int each = Tile::each;
    return Interleaved ? row % each * 16 + row / each : row;
}

/// tile[place][0..width) = scale * tokens first .. first + rows.
template <typename Tile, bool Interleaved, typename T>
__device__ void load_tile(float* tile, TokenRows<const T> tokens, const TileLoad& load) {
    constexpr int rows = Tile::rows, stride = Tile::stride, quads = Tile::width / 4;
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
            *reinterpret_cast<float4*>(tile + place_of<Tile, Interleaved>(row) * stride + column) =
                values;
        }
        return;
    }
    for (int index = static_cast<int>(threadIdx.x); index < rows * Tile::width;
         index += attention_threads) {
        const int row = index / Tile::width, column = index % Tile::width;
        const bool is_inside = load.first + row < load.limit && column < load.width;
        tile[place_of<Tile, Interleaved>(row) * stride + column] =
            is_inside ? load.scale * to_float(tokens.row(load.first + row)[column]) : 0.0f;
    }
}

template <typename Tile>
using Scores = float[Tile::each][Tile::each];
template <typename Tile>
using Sums = float[Tile::each][Tile::columns];

__device__ inline int thread_row() {
    return static_cast<int>(threadIdx.x) / 16;
}
__device__ inline int thread_column() {
    return static_cast<int>(threadIdx.x) % 16;
}

/// scores[i][j] = row ty * each + i of `left` times row tx * each + j of `right`, interleaved.
template <typename Tile>
__device__ void multiply(Scores<Tile>& scores, const float* left, const float* right, int width) {
    constexpr int each = Tile::each, stride = Tile::stride;
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
template <typename Tile>
__device__ void store_scores(float* tile, const Scores<Tile>& scores) {
    constexpr int each = Tile::each;
#pragma unroll
    for (int i = 0; i < each; ++i) {
        Vector<float, each> row;
#pragma unroll
        for (int j = 0; j < each; ++j)
            row.values[j] = scores[i][j];
        *reinterpret_cast<Vector<float, each>*>(
            tile + (thread_row() * each + i) * Tile::score_stride + thread_column() * each) = row;
    }
}

/// sums[i] += row ty * each + i of `weights` [rows][rows] times `right` [rows][width], interleaved.
/// Column c * vector + x of a thread is column (16 c + tx) * vector + x of the tile.
template <typename Tile>
__device__ void accumulate(Sums<Tile>& sums, const float* weights, const float* right) {
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
            const float* row = column + place_of<Tile, true>(k + step) * Tile::stride;
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

template <typename Tile>
__device__ void set_zero(Sums<Tile>& sums) {
#pragma unroll
    for (int i = 0; i < Tile::each; ++i)
#pragma unroll
        for (int c = 0; c < Tile::columns; ++c)
            sums[i][c] = 0.0f;
}

/// Calls body(element of a row of the sums, its column) for the columns below `width`.
template <typename Tile, typename Body>
__device__ void for_columns(int width, Body&& body) {
#pragma unroll
    for (int c = 0; c < Tile::chunks; ++c)
#pragma unroll
        for (int x = 0; x < Tile::vector; ++x) {
            const int column = (16 * c + thread_column()) * Tile::vector + x;
            if (column < width) body(c * Tile::vector + x, column);
        }
}

/// Token `to` = scale * row i of the sums, the columns below `width`.
template <typename Tile, typename T>
__device__ void store_sums(T* to, const float (&row)[Tile::columns], float scale, int width) {
    for_columns<Tile>(width,
                      [&](int i, int column) { to[column] = from_float<T>(scale * row[i]); });
}

/// Row i of the sums = token `from`, in the columns below `width`; the others stay.
template <typename Tile>
__device__ void load_sums(float (&row)[Tile::columns], const float* from, int width) {
    for_columns<Tile>(width, [&](int i, int column) { row[i] = from[column]; });
}

/// Token `to` += scale * row i of the sums, the columns below `width`.
template <typename Tile>
__device__ void add_sums(float* to, const float (&row)[Tile::columns], float scale, int width) {
    float before[Tile::columns];  // all loaded before the first is stored
    load_sums<Tile>(before, to, width);
    for_columns<Tile>(width, [&](int i, int column) { to[column] = before[i] + scale * row[i]; });
}

/// Numbers of the documents of a block's queries and keys, in shared memory.
template <typename Tile>
struct TileDocuments {
    int32_t of_row[Tile::rows], of_column[Tile::rows];
};

/// documents[i] = that of token first + i of a run.
__device__ inline void load_documents(int32_t* documents, const int32_t* of_token, int first,
                                      int limit, int rows) {
    const int i = static_cast<int>(threadIdx.x);
    if (i < rows) documents[i] = first + i < limit ? of_token[first + i] : 0;
}

/// Of four random words, those of the keys at positions 4n .. 4n + 3, the word of the key at
/// `position` + j, where `position` is a multiple of `each`, the keys of a thread.
template <int each>
__device__ uint32_t word_of(const std::array<uint32_t, 4>& words, int position, int j) {
    if constexpr (each == 4) return words[j];
    if constexpr (each == 2) return position % 4 == 0 ? words[j] : words[2 + j];
    const int at = position % 4;  // no array in memory for an index
    return at == 0 ? words[0] : at == 1 ? words[1] : at == 2 ? words[2] : words[3];
}

/// Calls body with the type of the one of `tiles` that `tile` is.
template <const auto& tiles, size_t index = 0, typename Body>
void with_tile(const AttentionTile& tile, Body&& body) {
    if constexpr (index < tiles.size()) {
        if (tile == tiles[index]) return body(TileOf<tiles[index].width, tiles[index].rows>{});
        with_tile<tiles, index + 1>(tile, body);
    }
}

/// A kernel whose blocks want that many floats of shared memory.
template <typename Kernel>
unsigned allow_shared_floats(Kernel kernel, int floats) {
    const int bytes = floats * static_cast<int>(sizeof(float));
    CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
    return static_cast<unsigned>(bytes);
}

}  // namespace plinth::kernels::cuda
