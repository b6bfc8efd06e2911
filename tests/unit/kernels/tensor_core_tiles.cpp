// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/tensor_core_tiles.h"

#include <gtest/gtest.h>

#include <set>
#include <vector>

namespace plinth::kernels::cuda::tensor_core {
namespace {

constexpr int widths[] = {64, 96, 128};

TEST(TensorCoreTiles, AHeadFitsIntoItsTile) {
    for (int64_t width = 1; width <= largest_width; ++width) {
        EXPECT_GE(tile_width(width), width);
        EXPECT_EQ(tile_width(tile_width(width)), tile_width(width));
        EXPECT_EQ(tile_width(width) % 16, 0) << "a step of the product is sixteen columns";
    }
}

TEST(TensorCoreTiles, SharedMemoryIsThereOnEachCard) {
    for (const int width : widths) {
        EXPECT_LE(forward_bytes(width), most_shared_bytes) << width;
        EXPECT_LE(backward_bytes(width), most_shared_bytes) << width;
        // Two blocks on a multiprocessor of compute capability 8.0, which has 164 KiB in all, of
        // which each block takes one for itself.
        EXPECT_LE(2 * (forward_bytes(width) + 1024), 164 * 1024) << width;
        EXPECT_LE(2 * (backward_bytes(width) + 1024), 164 * 1024) << width;
    }
}

TEST(TensorCoreTiles, TilesAreWholePieces) {
    for (const int width : widths) {
        for (const int rows :
             {forward_queries(width), forward_keys, backward_rows, backward_moving_rows(width)}) {
            EXPECT_EQ(rows % 16, 0);
            EXPECT_EQ(rows % range_tokens, 0);
            EXPECT_EQ(rows * width / 8 % threads, 0) << "each thread loads as much";
        }
        EXPECT_EQ(tile_bytes(width, 16) % 16, 0);
    }
}

/// Eight rows of 16 bytes are read at once; 32 banks of 4 bytes.
TEST(TensorCoreTiles, RowsThatAreReadAtOnceLieInOtherBanks) {
    for (const int width : widths)
        for (int first = 0; first < 16; ++first) {
            std::set<int> banks;
            for (int row = first; row < first + 8; ++row)
                for (int word = 0; word < 4; ++word)
                    banks.insert((row * row_stride(width) / 2 + word) % 32);
            EXPECT_EQ(banks.size(), 32u) << width;
        }
}

TEST(TensorCoreTiles, DocumentsInCommon) {
    // Two samples of 150 tokens; numbers in no order, and one document that comes back.
    constexpr int tokens = 150, pieces = DocumentRanges::pieces_of(tokens);
    EXPECT_EQ(pieces, 5);
    std::vector<int32_t> documents(2 * tokens);
    for (int i = 0; i < 2 * tokens; ++i)
        documents[static_cast<size_t>(i)] = i % tokens < 40    ? 7
                                            : i % tokens < 100 ? -3
                                                               : i / tokens + 8;
    std::vector<DocumentRange> data(2 * pieces);
    for (int b = 0; b < 2; ++b)
        for (int t = 0; t < tokens; ++t) {
            const int32_t number = documents[static_cast<size_t>(b * tokens + t)];
            auto& range = data[static_cast<size_t>(b * pieces + t / range_tokens)];
            range = range.joined({number, number});
        }
    const DocumentRanges ranges{data.data(), pieces};
    const auto have_one_in_common = [&](int b, int first, int second, int rows) {
        for (int i = first; i < std::min(first + rows, tokens); ++i)
            for (int j = second; j < std::min(second + rows, tokens); ++j)
                if (documents[static_cast<size_t>(b * tokens + i)] ==
                    documents[static_cast<size_t>(b * tokens + j)])
                    return true;
        return false;
    };
    int skipped = 0;
    for (const int rows : {32, 64, 128})
        for (int b = 0; b < 2; ++b)
            for (int first = 0; first < tokens; first += rows) {
                const DocumentRange own = ranges.of(b, first, rows);
                for (int second = 0; second < tokens; second += rows) {
                    const int next = ranges.next(b, own, second, tokens, rows);
                    EXPECT_EQ((next - second) % rows, 0);
                    for (int passed = second; passed < std::min(next, tokens); passed += rows) {
                        EXPECT_FALSE(have_one_in_common(b, first, passed, rows));
                        ++skipped;
                    }
                }
            }
    EXPECT_GT(skipped, 10);
    EXPECT_TRUE(ranges.of(0, 128, 64).is_one());
    EXPECT_FALSE(ranges.of(0, 32, 32).is_one());
    EXPECT_EQ(ranges.of(1, 128, 64).first, 9) << "pieces behind the last are another sample's";
    EXPECT_EQ(DocumentRanges{}.next(0, {}, 64, 150, 32), 64) << "no documents";
}

}  // namespace
}  // namespace plinth::kernels::cuda::tensor_core
