// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/attention_tile.h"

#include <gtest/gtest.h>

#include "tests/support/expect_error.h"

namespace plinth::test {
namespace {

using namespace kernels::cuda;

constexpr int64_t kib = 1024;

TEST(AttentionTile, BytesAreThoseOfTheTilesAndTheirRows) {
    // Four tiles of 64 rows of 128 and 4 floats, scores of 64 rows of 64 and 4, and two documents
    // and two numbers of each row.
    EXPECT_EQ((AttentionTile{128, 64}.backward_bytes()), 4 * (4 * 64 * 132 + 64 * 68 + 4 * 64));
    EXPECT_EQ((AttentionTile{256, 32}.forward_bytes()), 4 * (2 * 32 * 260 + 32 * 36 + 2 * 32));
}

/// As they were before there was a choice, on the cards that the preset `cuda` names.
TEST(AttentionTile, CardsWithEnoughTakeTheLargestTiles) {
    for (const int64_t limit : {163 * kib, 227 * kib})
        for (const auto& [width, tile] :
             {std::pair{1, AttentionTile{32, 64}}, std::pair{32, AttentionTile{32, 64}},
              std::pair{33, AttentionTile{64, 64}}, std::pair{64, AttentionTile{64, 64}},
              std::pair{65, AttentionTile{128, 64}}, std::pair{128, AttentionTile{128, 64}},
              std::pair{129, AttentionTile{256, 32}}, std::pair{256, AttentionTile{256, 32}}}) {
            EXPECT_EQ(choose_forward_tile(width, limit, "a card"), tile) << width;
            EXPECT_EQ(choose_backward_tile(width, limit, "a card"), tile) << width;
        }
}

TEST(AttentionTile, WhatIsChosenFitsAndServes) {
    for (int64_t limit = 72 * kib; limit <= 232 * kib; limit += kib / 2)
        for (int64_t width = 1; width <= largest_attention_width; ++width) {
            const AttentionTile forward = choose_forward_tile(width, std::max(limit, 84 * kib), ""),
                                backward = choose_backward_tile(width, limit, "");
            ASSERT_LE(forward.forward_bytes(), std::max(limit, 84 * kib)) << width;
            ASSERT_LE(backward.backward_bytes(), limit) << width;
            ASSERT_GE(std::min(forward.width, backward.width), width);
        }
}

TEST(AttentionTile, CardsOf99KiBTakeSmallerOnesForWideHeadsOnly) {
    const int64_t limit = 99 * kib;
    EXPECT_EQ(choose_backward_tile(64, limit, ""), (AttentionTile{64, 64}));
    EXPECT_EQ(choose_backward_tile(65, limit, ""), (AttentionTile{128, 32}));
    EXPECT_EQ(choose_backward_tile(128, limit, ""), (AttentionTile{128, 32}));
    EXPECT_EQ(choose_backward_tile(129, limit, ""), (AttentionTile{256, 16}));
    for (const int64_t width : {64, 128, 256})
        EXPECT_EQ(choose_forward_tile(width, limit, ""), choose_forward_tile(width, 227 * kib, ""));
}

TEST(AttentionTile, WhereNoneFitsTheCardAndWhatToSetAreNamed) {
    expect_error(
        ErrorKind::config, [] { choose_backward_tile(128, 48 * kib, "NVIDIA T1"); },
        "attention: heads of 128 columns take 68096 bytes of shared memory a block, and NVIDIA T1 "
        "has 49152: set model.head_width to less, or train.dtype=bf16");
    expect_error(
        ErrorKind::internal, [] { choose_forward_tile(257, 227 * kib, ""); },
        "a head width of 257 is more than the 256 of the CUDA kernels");
}

}  // namespace
}  // namespace plinth::test
