// SPDX-License-Identifier: Apache-2.0
// Extents, shared memory and documents of the tiles of attention on tensor cores. Without CUDA:
// tests/unit/kernels/tensor_core_tiles.cpp.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "kernels/simd.h"

namespace plinth::kernels::cuda::tensor_core {

inline constexpr int warps = 4;
inline constexpr int threads = 32 * warps;
inline constexpr int largest_width = 128;  ///< of a head
/// What a block may have on compute capability 8.0; 227 KiB on 9.0 and 10.0.
inline constexpr int most_shared_bytes = 163 * 1024;

/// The tile width that serves heads of this many columns, which are padded with zeros.
constexpr int tile_width(int64_t width) {
    return width <= 64 ? 64 : width <= 96 ? 96 : 128;
}
/// Elements from one row of a tile in shared memory to the next. Eight more than the row: the eight
/// rows of 16 bytes that are read at once then lie in other banks, for they begin 16 bytes (mod
/// 128) apart.
constexpr int row_stride(int width) {
    return width + 8;
}
constexpr int tile_bytes(int width, int rows) {
    return rows * row_stride(width) * 2;
}

/// Blocks of sixteen queries of a warp in the forward pass: two share each read of keys and values,
/// but their sums need twice the registers.
constexpr int forward_row_blocks(int width) {
    return width == 64 ? 2 : 1;
}
constexpr int forward_queries(int width) {
    return 16 * warps * forward_row_blocks(width);
}
inline constexpr int forward_keys = 64;
/// Blocks that the registers of a multiprocessor shall hold, so that a thread may have 255 or 168:
/// as many as the compiler fits without spilling, which is fewer where weights are dropped.
constexpr int forward_blocks(int width, bool drops) {
    return width == 64 || (width == 128 && drops) ? 2 : 3;
}
/// Queries, keys, values.
constexpr int forward_bytes(int width) {
    return tile_bytes(width, forward_queries(width)) + 2 * tile_bytes(width, forward_keys);
}

/// Rows of the tile that stays in the backward pass: queries for dq, keys for dk and dv.
inline constexpr int backward_rows = 16 * warps;
/// Rows of those that pass; wider ones would leave compute capability 8.0 one block.
constexpr int backward_moving_rows(int width) {
    return width == 64 ? 64 : 32;
}
/// Two tiles that stay, and two that pass, twice: the next ones are on their way.
constexpr int backward_bytes(int width) {
    return 2 * tile_bytes(width, backward_rows) +
           4 * tile_bytes(width, backward_moving_rows(width));
}

/// As forward_blocks: dk and dv together take twice the registers of dq.
constexpr int query_gradient_blocks(int width, bool drops) {
    return width == 64 && drops ? 2 : 3;
}
inline constexpr int key_value_gradient_blocks = 2;

/// The smallest and the largest number among the documents of some tokens. Tiles whose ranges do
/// not overlap have no document in common, whatever the numbers' order.
struct DocumentRange {
    int32_t first = std::numeric_limits<int32_t>::max(), last = std::numeric_limits<int32_t>::min();

    PLINTH_HOST_DEVICE DocumentRange joined(const DocumentRange& other) const {
        return {std::min(first, other.first), std::max(last, other.last)};
    }
    PLINTH_HOST_DEVICE bool overlaps(const DocumentRange& other) const {
        return first <= other.last && other.first <= last;
    }
    PLINTH_HOST_DEVICE bool is_one() const { return first == last; }
};

/// Tokens that one DocumentRange stands for; every tile above is a multiple of it.
inline constexpr int range_tokens = 32;

/// Ranges of a run of tokens in each of B samples; without data: no documents.
struct DocumentRanges {
    const DocumentRange* data = nullptr;  ///< [B, pieces]
    int pieces = 0;

    static constexpr int pieces_of(int tokens) {
        return (tokens + range_tokens - 1) / range_tokens;
    }
    /// Of the tokens [token, token + rows) that there are; token is a multiple of range_tokens.
    PLINTH_HOST_DEVICE DocumentRange of(int sample, int token, int rows) const {
        DocumentRange range;
        const DocumentRange* of_sample = data + int64_t{sample} * pieces;
        for (int i = token / range_tokens; i < pieces && i * range_tokens < token + rows; ++i)
            range = range.joined(of_sample[i]);
        return range;
    }
    /// The first tile of `rows` tokens at `token` or behind it that has a document in common with
    /// `other`, by their ranges; `end` or one behind it where none has.
    PLINTH_HOST_DEVICE int next(int sample, const DocumentRange& other, int token, int end,
                                int rows) const {
        if (data == nullptr) return token;
        while (token < end && !of(sample, token, rows).overlaps(other))
            token += rows;
        return token;
    }
};

}  // namespace plinth::kernels::cuda::tensor_core
