// SPDX-License-Identifier: Apache-2.0
// How a kernel that treats every row alike cuts rows of vectors into thread blocks. Host code
// without CUDA: tests/unit/kernels/row_tiles.cpp shows that each vector has one owner.
#pragma once

#include <algorithm>
#include <cstdint>

namespace plinth::kernels::cuda {

/// A block has `columns` x `lanes` threads. Thread (c, l) of block i owns the vectors c, c +
/// columns,
/// ... of the rows i * rows_per_block + l + k * lanes, k < rows_per_thread.
struct RowTiles {
    static constexpr int rows_per_thread = 4;
    static constexpr int most_threads = 256;

    int columns;  ///< threads side by side on a row
    int lanes;    ///< rows side by side
    int64_t blocks;

    RowTiles(int64_t rows, int64_t vectors_per_row)
        : columns(static_cast<int>(std::clamp<int64_t>(vectors_per_row, 1, most_threads))),
          lanes(most_threads / columns),
          blocks(std::max<int64_t>(1, (rows + rows_per_block() - 1) / rows_per_block())) {}
    int64_t rows_per_block() const { return int64_t{lanes} * rows_per_thread; }
};

}  // namespace plinth::kernels::cuda
