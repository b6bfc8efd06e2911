// SPDX-License-Identifier: Apache-2.0
// Which square tile of scores the kernels without matrix units take, by the head's width and by
// what a block of the card may have of shared memory. Without CUDA:
// tests/unit/kernels/attention_tile.cpp.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <string>

#include "kernels/runtime/error.h"

namespace plinth::kernels::cuda {

inline constexpr int largest_attention_width = 256;

/// Heads of up to `width` columns, `rows` queries against `rows` keys.
struct AttentionTile {
    int width, rows;

    /// Four more than the row: 4 (mod 32), so that reads of 16 bytes of neighbouring rows meet
    /// other banks.
    constexpr int stride() const { return width + 4; }
    constexpr int score_stride() const { return rows + 4; }
    /// In floats: of tokens, of scores.
    constexpr int size() const { return rows * stride(); }
    constexpr int score_size() const { return rows * score_stride(); }
    constexpr int forward_floats() const { return 2 * size() + score_size(); }
    constexpr int backward_floats() const { return 4 * size() + score_size(); }
    /// In bytes, documents and numbers of the rows included.
    constexpr int forward_bytes() const { return 4 * (forward_floats() + 2 * rows); }
    constexpr int backward_bytes() const { return 4 * (backward_floats() + 4 * rows); }

    constexpr bool operator==(const AttentionTile&) const = default;
};

/// Largest first of each width. A block may have 227 KiB on compute capability 9.0 and 10.0, 163 on
/// 8.0, 99 on 8.6, 8.9 and 12.0, which is what the smaller ones are for.
inline constexpr std::array<AttentionTile, 4> forward_tiles = {
    {{32, 64}, {64, 64}, {128, 64}, {256, 32}}};
inline constexpr std::array<AttentionTile, 6> backward_tiles = {
    {{32, 64}, {64, 64}, {128, 64}, {128, 32}, {256, 32}, {256, 16}}};

/// The first of `tiles` that serves heads of this width within `limit` bytes a block, of which it
/// takes `bytes(tile)`. Throws an error of kind config that names `card` where there is none.
template <size_t Count, typename Bytes>
AttentionTile choose_attention_tile(const std::array<AttentionTile, Count>& tiles, Bytes&& bytes,
                                    int64_t width, int64_t limit, const std::string& card) {
    CHECK(width <= largest_attention_width,
          "attention: a head width of {} is more than the {} of the CUDA kernels", width,
          largest_attention_width);
    int64_t least = std::numeric_limits<int64_t>::max();
    for (const AttentionTile& tile : tiles) {
        if (width > tile.width) continue;
        if (bytes(tile) <= limit) return tile;
        least = std::min<int64_t>(least, bytes(tile));
    }
    FAIL(config,
         "attention: heads of {} columns take {} bytes of shared memory a block, and {} has {}: "
         "set model.head_width to less, or train.dtype=bf16 with heads of up to 128 columns, which "
         "other kernels serve",
         width, least, card, limit);
}

inline AttentionTile choose_forward_tile(int64_t width, int64_t limit, const std::string& card) {
    return choose_attention_tile(
        forward_tiles, [](const AttentionTile& tile) { return tile.forward_bytes(); }, width, limit,
        card);
}
inline AttentionTile choose_backward_tile(int64_t width, int64_t limit, const std::string& card) {
    return choose_attention_tile(
        backward_tiles, [](const AttentionTile& tile) { return tile.backward_bytes(); }, width,
        limit, card);
}

}  // namespace plinth::kernels::cuda
