// SPDX-License-Identifier: Apache-2.0
// What the forward and backward pass of attention share. A block of scores lies transposed in
// memory, [keys][queries]: queries are the lanes of vector instructions, so that maxima and sums
// over keys need no horizontal step and a query's bits do not depend on its neighbours.
#pragma once

#include <algorithm>
#include <limits>
#include <memory>
#include <type_traits>

#include "kernels/attention.h"
#include "kernels/attention_shape.h"
#include "kernels/cpu/tile_product.h"
#include "kernels/simd.h"

namespace plinth::kernels::cpu {

inline constexpr int64_t block_queries = 64;
inline constexpr int64_t block_keys = 64;

inline int64_t padded_to_lanes(int64_t n) {
    return (n + tile_lanes - 1) / tile_lanes * tile_lanes;
}

/// Uninitialised fp32 scratch of one chunk of work.
class Scratch {
  public:
    explicit Scratch(int64_t elements)
        : data_(std::make_unique_for_overwrite<float[]>(static_cast<size_t>(elements))) {}
    float* get() const { return data_.get(); }
    float* operator+(int64_t offset) const { return data_.get() + offset; }

  private:
    std::unique_ptr<float[]> data_;
};

/// Rows of one head in a packed tensor: `width` elements each, `stride` apart.
template <typename T>
struct HeadRows {
    T* data;
    int64_t stride, width;
    T* row(int64_t i) const { return data + i * stride; }
};

/// The heads of a tensor [B, N, heads * K], by its strides.
template <typename T>
struct TokenHeads {
    T* data;
    int64_t sample, token, width;  ///< from one to the next; K

    /// From head `first_head` of the view on.
    template <typename AnyView>
    static TokenHeads of(const AnyView& view, int64_t width, int64_t first_head = 0) {
        return {view.template as<std::remove_const_t<T>>() + first_head * width, view.stride(0),
                view.stride(1), width};
    }
    HeadRows<T> rows(int64_t b, int64_t head) const {
        return {data + b * sample + head * width, token, width};
    }
};

/// to[i][0..padded) = scale * rows [first, first + count), zeros in the padding.
template <typename T>
void copy_rows(float* to, HeadRows<const T> rows, int64_t first, int64_t count, float scale);
/// to[d][0..lanes) = from[lane][d], for d < padded width; `from` has rows of the padded width.
void transpose_rows(float* to, const float* from, int64_t width, int64_t lanes);
/// rows [first, first + count) = scale * from[i][0..width).
template <typename T>
void store_rows(HeadRows<T> rows, int64_t first, int64_t count, const float* from, float scale);

/// The part of a score matrix that is at hand: queries [query, query + queries) against keys
/// [key, key + keys), positions within the sequence.
struct Block {
    int64_t query, queries, key, keys;
    int64_t lanes() const { return padded_to_lanes(queries); }
};

/// Lanes from this one on are computed in row `row` of a block of scores; see HeadMask::diagonal.
PLINTH_INLINE int64_t first_lane_of(int64_t diagonal, int64_t row) {
    const int64_t lane = (diagonal + row / tile_lanes * tile_lanes) / tile_lanes * tile_lanes;
    return lane < 0 ? 0 : lane;
}

/// The masks of one (sample, head).
struct HeadMask {
    bool causal;
    int64_t window = 0;  ///< as Attention's
    float slope = 0.0f;
    const int32_t* documents = nullptr;  ///< by position
    float dropout = 0.0f;
    RandomKey random;
    uint64_t sample = 0;
    uint64_t head = 0;

    static HeadMask of(const AttentionMask& mask, const Attention& options, int64_t tokens,
                       int64_t sample, int64_t head);

    /// The first of those keys from `first` on that the queries of the block may see, rounded down
    /// by whole blocks of keys: what a block holds, and so the bits, do not depend on the window.
    int64_t first_key(const Block& block, int64_t first) const {
        const int64_t hidden = window > 0 ? block.query - window + 1 - first : 0;
        return first + std::max<int64_t>(0, hidden) / block_keys * block_keys;
    }
    /// Keys [0, limit) are all that the queries of the block may see.
    int64_t key_limit(const Block& block, int64_t keys) const {
        return causal ? std::min(keys, block.query + block.queries) : keys;
    }
    /// False if no query of the block sees any of its keys.
    bool touches(const Block& block) const;
    /// First lane that may see the vector of keys around `row` of the block, rounded down to a
    /// vector.
    int64_t first_lane(const Block& block, int64_t row) const {
        return first_lane_of(diagonal(block), row);
    }
    /// Lane of the query that is the first to see the block's first key; far below 0 if all do.
    int64_t diagonal(const Block& block) const {
        return causal ? block.key - block.query : std::numeric_limits<int32_t>::min();
    }
    /// Leading keys of the block that lanes [lane, lane + 16) may see.
    int64_t keys_seen(const Block& block, int64_t lane) const {
        if (!causal) return block.keys;
        return std::clamp<int64_t>(block.query + lane + tile_lanes - block.key, 0, block.keys);
    }
};

/// scores[keys][lanes] += ALiBi, -infinity where masked; lanes before first_lane are not touched.
void mask_scores(float* scores, const Block& block, const HeadMask& mask);
/// values[keys][lanes] *= 0 or 1 / (1 - dropout).
void drop_weights(float* values, const Block& block, const HeadMask& mask);

// Products of blocks. Rows of `width` are padded to whole vectors; parts that no lane can see are
// skipped.

/// out[keys][lanes] = left[keys][width] right[width][lanes].
void block_scores(float* out, const float* left, const float* right, int64_t width,
                  const Block& block, const HeadMask& mask);
/// out[queries][padded] += weights[keys][lanes]^T right[keys][padded].
void sum_over_keys(float* out, const float* weights, const float* right, int64_t padded,
                   const Block& block, const HeadMask& mask);
/// out[keys][padded] += weights[keys][lanes] right[queries][padded].
void sum_over_queries(float* out, const float* weights, const float* right, int64_t padded,
                      const Block& block, const HeadMask& mask);

}  // namespace plinth::kernels::cpu
