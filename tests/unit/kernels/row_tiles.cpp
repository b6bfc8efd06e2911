// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/row_tiles.h"

#include <gtest/gtest.h>

#include <vector>

namespace plinth::kernels::cuda {
namespace {

/// How often each vector of each row has an owner, as the kernels walk their tiles.
std::vector<int> owners(int64_t rows, int64_t vectors, const RowTiles& tiles) {
    std::vector<int> count(static_cast<size_t>(rows * vectors), 0);
    for (int64_t block = 0; block < tiles.blocks; ++block)
        for (int lane = 0; lane < tiles.lanes; ++lane)
            for (int thread = 0; thread < tiles.columns; ++thread)
                for (int64_t column = thread; column < vectors; column += tiles.columns)
                    for (int k = 0; k < RowTiles::rows_per_thread; ++k) {
                        const int64_t row =
                            block * tiles.rows_per_block() + lane + int64_t{k} * tiles.lanes;
                        if (row < rows) ++count[static_cast<size_t>(row * vectors + column)];
                    }
    return count;
}

TEST(RowTiles, EachVectorHasOneOwner) {
    for (const int64_t rows : {1, 2, 3, 63, 64, 1025})
        for (const int64_t vectors : {1, 7, 32, 96, 128, 255, 256, 257, 1376}) {
            const RowTiles tiles(rows, vectors);
            EXPECT_LE(tiles.columns * tiles.lanes, RowTiles::most_threads);
            EXPECT_EQ(owners(rows, vectors, tiles),
                      std::vector<int>(static_cast<size_t>(rows * vectors), 1))
                << rows << " rows of " << vectors;
        }
}

TEST(RowTiles, NoBlockIsIdle) {
    EXPECT_EQ(RowTiles(0, 5).blocks, 1) << "a launch has a block";
    EXPECT_EQ(RowTiles(4, 256).blocks, 1);
    EXPECT_EQ(RowTiles(5, 256).blocks, 2);
    EXPECT_EQ(RowTiles(8192, 96).blocks, 1024) << "two rows of 96 side by side, four deep";
}

}  // namespace
}  // namespace plinth::kernels::cuda
