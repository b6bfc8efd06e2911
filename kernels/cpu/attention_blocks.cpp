// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/attention_blocks.h"

namespace plinth::kernels::cpu {

namespace {

constexpr float minus_infinity = -std::numeric_limits<float>::infinity();

PLINTH_SIMD void copy_row(float* to, const float* from, int64_t n, float scale) {
    for (int64_t i = 0; i < n; ++i)
        to[i] = scale * from[i];
}

PLINTH_SIMD void copy_row(float* to, const BFloat16* from, int64_t n, float scale) {
    for (int64_t i = 0; i < n; ++i)
        to[i] = scale * static_cast<float>(from[i]);
}

PLINTH_SIMD void store_row(float* to, const float* from, int64_t n, float scale) {
    for (int64_t i = 0; i < n; ++i)
        to[i] = scale * from[i];
}

PLINTH_SIMD void store_row(BFloat16* to, const float* from, int64_t n, float scale) {
    for (int64_t i = 0; i < n; ++i)
        to[i] = BFloat16(scale * from[i]);
}

#if defined(__clang__)
/// to[column][row] = from[row][column] of 16 x 16 floats.
void transpose_square(float* to, int64_t to_stride, const float* from, int64_t from_stride) {
    for (int64_t row = 0; row < 16; ++row)
        for (int64_t column = 0; column < 16; ++column)
            to[column * to_stride + row] = from[row * from_stride + column];
}
#else
/// to[column][row] = from[row][column] of 16 x 16 floats: halves of ever smaller squares change
/// places, one vector permutation each.
PLINTH_SIMD void transpose_square(float* to, int64_t to_stride, const float* from,
                                  int64_t from_stride) {
    using Vector = float __attribute__((vector_size(64)));
    using Lanes = int32_t __attribute__((vector_size(64)));
    constexpr Lanes lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    Vector rows[16];
    for (int i = 0; i < 16; ++i)
        __builtin_memcpy(&rows[i], from + i * from_stride, sizeof(Vector));
#pragma GCC unroll 4
    for (int half = 8; half > 0; half /= 2) {
        const Lanes upper = (lane & half) != 0;  // all ones where true
        const Lanes first = (upper & (lane - half + 16)) | (~upper & lane);
        const Lanes second = (upper & (lane + 16)) | (~upper & (lane + half));
#pragma GCC unroll 16
        for (int i = 0; i < 16; ++i) {
            if (i & half) continue;
            const Vector a = rows[i], b = rows[i + half];
            rows[i] = __builtin_shuffle(a, b, first);
            rows[i + half] = __builtin_shuffle(a, b, second);
        }
    }
    for (int i = 0; i < 16; ++i)
        __builtin_memcpy(to + i * to_stride, &rows[i], sizeof(Vector));
}
#endif

/// A vector of lanes and the keys 4n .. 4n+3 share one Philox call each.
PLINTH_SIMD void drop_four_rows(float* values, int64_t stride, int64_t rows, int64_t lanes,
                                RandomKey random, uint64_t index, uint64_t sample,
                                uint32_t threshold, float kept) {
    for (int64_t lane = 0; lane < lanes; ++lane) {
        const auto words = random.words(index + (static_cast<uint64_t>(lane) << 24), sample);
        for (int64_t row = 0; row < rows; ++row) {
            float& value = values[row * stride + lane];
            value = words[static_cast<size_t>(row)] < threshold ? 0.0f : value * kept;
        }
    }
}

PLINTH_SIMD void add_slope(float* scores, int64_t lanes, int64_t keys, int64_t diagonal,
                           int32_t distance, float slope) {
    for (int64_t row = 0; row < keys; ++row) {
        float* score = scores + row * lanes;
        for (int64_t lane = first_lane_of(diagonal, row); lane < lanes; ++lane)
            score[lane] += slope * static_cast<float>(distance + static_cast<int32_t>(row - lane));
    }
}

PLINTH_SIMD void hide_later_keys(float* scores, int64_t lanes, int64_t keys, int64_t diagonal) {
    for (int64_t row = 0; row < keys; ++row) {
        float* score = scores + row * lanes;
        const int64_t seen_from = diagonal + row;
        for (int64_t lane = first_lane_of(diagonal, row); lane < lanes; ++lane)
            score[lane] = lane < seen_from ? minus_infinity : score[lane];
    }
}

/// Lane `first_hidden` is the first whose window begins behind the block's first key.
PLINTH_SIMD void hide_keys_before_windows(float* scores, int64_t lanes, int64_t keys,
                                          int64_t diagonal, int64_t first_hidden) {
    for (int64_t row = 0; row < keys; ++row) {
        float* score = scores + row * lanes;
        const int64_t hidden_from = first_hidden + row;
        for (int64_t lane = first_lane_of(diagonal, row); lane < lanes; ++lane)
            score[lane] = lane >= hidden_from ? minus_infinity : score[lane];
    }
}

PLINTH_SIMD void hide_other_documents(float* scores, int64_t lanes, int64_t keys, int64_t diagonal,
                                      const int32_t* of_key, const int32_t* of_lane) {
    for (int64_t row = 0; row < keys; ++row) {
        float* score = scores + row * lanes;
        const int32_t document = of_key[row];
        for (int64_t lane = first_lane_of(diagonal, row); lane < lanes; ++lane)
            score[lane] = of_lane[lane] != document ? minus_infinity : score[lane];
    }
}

}  // namespace

template <typename T>
void copy_rows(float* to, HeadRows<const T> rows, int64_t first, int64_t count, float scale) {
    const int64_t padded = padded_to_lanes(rows.width);
    for (int64_t i = 0; i < count; ++i) {
        copy_row(to + i * padded, rows.row(first + i), rows.width, scale);
        std::fill(to + i * padded + rows.width, to + (i + 1) * padded, 0.0f);
    }
}

void transpose_rows(float* to, const float* from, int64_t width, int64_t lanes) {
    const int64_t padded = padded_to_lanes(width);
    for (int64_t lane = 0; lane < lanes; lane += tile_lanes)
        for (int64_t d = 0; d < padded; d += tile_lanes)
            transpose_square(to + d * lanes + lane, lanes, from + lane * padded + d, padded);
}

template <typename T>
void store_rows(HeadRows<T> rows, int64_t first, int64_t count, const float* from, float scale) {
    const int64_t padded = padded_to_lanes(rows.width);
    for (int64_t i = 0; i < count; ++i)
        store_row(rows.row(first + i), from + i * padded, rows.width, scale);
}

template void copy_rows(float*, HeadRows<const float>, int64_t, int64_t, float);
template void copy_rows(float*, HeadRows<const BFloat16>, int64_t, int64_t, float);
template void store_rows(HeadRows<float>, int64_t, int64_t, const float*, float);
template void store_rows(HeadRows<BFloat16>, int64_t, int64_t, const float*, float);

HeadMask HeadMask::of(const AttentionMask& mask, const Attention& options, int64_t tokens,
                      int64_t sample, int64_t head) {
    HeadMask result{.causal = options.causal, .window = options.window, .dropout = options.dropout};
    if (options.dropout > 0.0f) result.random = options.random.get();
    if (mask.slopes) result.slope = mask.slopes.as<float>()[head];
    if (mask.documents) result.documents = mask.documents.as<int32_t>() + sample * tokens;
    if (mask.samples) result.sample = static_cast<uint64_t>(mask.samples.as<int64_t>()[sample]);
    result.head = static_cast<uint64_t>(options.first_head + head);
    return result;
}

bool HeadMask::touches(const Block& block) const {
    if (causal && block.key > block.query + block.queries - 1) return false;
    if (window > 0 && block.key + block.keys <= block.query - window + 1) return false;
    if (!documents) return true;
    const auto [first_query, last_query] =
        std::minmax_element(documents + block.query, documents + block.query + block.queries);
    const auto [first_key, last_key] =
        std::minmax_element(documents + block.key, documents + block.key + block.keys);
    return *first_key <= *last_query && *first_query <= *last_key;
}

void mask_scores(float* scores, const Block& block, const HeadMask& mask) {
    const int64_t lanes = block.lanes(), diagonal = mask.diagonal(block);
    if (mask.slope != 0.0f)
        add_slope(scores, lanes, block.keys, diagonal,
                  static_cast<int32_t>(block.key - block.query), mask.slope);
    if (mask.causal && block.key + block.keys - 1 > block.query)
        hide_later_keys(scores, lanes, block.keys, diagonal);
    const int64_t first_hidden = block.key - block.query + mask.window;
    if (mask.window > 0 && first_hidden < block.queries)
        hide_keys_before_windows(scores, lanes, block.keys, diagonal, first_hidden);
    if (mask.documents) {
        int32_t of_lane[block_queries];
        std::fill_n(of_lane, lanes, mask.documents[block.query]);
        std::copy_n(mask.documents + block.query, block.queries, of_lane);
        hide_other_documents(scores, lanes, block.keys, diagonal, mask.documents + block.key,
                             of_lane);
    }
}

void drop_weights(float* values, const Block& block, const HeadMask& mask) {
    // Four random words serve the keys 4n .. 4n+3 of one query; block.key is a multiple of four.
    const auto threshold = static_cast<uint32_t>(static_cast<double>(mask.dropout) * 0x1p32);
    const float kept = 1.0f / (1.0f - mask.dropout);
    const int64_t lanes = block.lanes();
    for (int64_t row = 0; row < block.keys; row += 4) {
        const int64_t lane = mask.first_lane(block, row);
        const uint64_t index = (mask.head << 48) |
                               (static_cast<uint64_t>(block.query + lane) << 24) |
                               (static_cast<uint64_t>(block.key + row) / 4);
        drop_four_rows(values + row * lanes + lane, lanes, std::min<int64_t>(4, block.keys - row),
                       lanes - lane, mask.random, index, mask.sample, threshold, kept);
    }
}

void block_scores(float* out, const float* left, const float* right, int64_t width,
                  const Block& block, const HeadMask& mask) {
    const int64_t lanes = block.lanes(), padded = padded_to_lanes(width);
    int64_t row = 0;
    while (row < block.keys) {  // rows with the same first lane in one call
        const int64_t lane = mask.first_lane(block, row);
        int64_t end = row;
        while (end < block.keys && mask.first_lane(block, end) == lane)
            end += tile_lanes - end % tile_lanes;
        end = std::min(end, block.keys);
        if (lane < lanes)
            tile_product(end - row, lanes - lane, width, {left + row * padded, padded, 1},
                         right + lane, lanes, out + row * lanes + lane, lanes, false);
        row = end;
    }
}

void sum_over_keys(float* out, const float* weights, const float* right, int64_t padded,
                   const Block& block, const HeadMask& mask) {
    const int64_t lanes = block.lanes();
    int64_t lane = 0;
    while (lane < block.queries) {  // lanes that see the same keys in one call
        const int64_t keys = mask.keys_seen(block, lane);
        int64_t end = lane;
        while (end < lanes && mask.keys_seen(block, end) == keys)
            end += tile_lanes;
        tile_product(std::min(end, block.queries) - lane, padded, keys, {weights + lane, 1, lanes},
                     right, padded, out + lane * padded, padded, true);
        lane = end;
    }
}

void sum_over_queries(float* out, const float* weights, const float* right, int64_t padded,
                      const Block& block, const HeadMask& mask) {
    const int64_t lanes = block.lanes();
    int64_t row = 0;
    while (row < block.keys) {
        const int64_t lane = mask.first_lane(block, row);
        int64_t end = row;
        while (end < block.keys && mask.first_lane(block, end) == lane)
            end += tile_lanes - end % tile_lanes;
        end = std::min(end, block.keys);
        if (lane < block.queries)
            tile_product(end - row, padded, block.queries - lane,
                         {weights + row * lanes + lane, lanes, 1}, right + lane * padded, padded,
                         out + row * padded, padded, true);
        row = end;
    }
}

}  // namespace plinth::kernels::cpu
