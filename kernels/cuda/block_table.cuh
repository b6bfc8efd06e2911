// SPDX-License-Identifier: Apache-2.0
// One launch over many arrays: which of them a block of the grid works on stands in a table, an
// argument of the kernel by value. So a captured graph holds it, and nothing is copied before.
#pragma once

#include <cstdint>

#include "kernels/cuda/rows.cuh"

namespace plinth::kernels::cuda {

/// What a kernel's arguments may take together on every device is 4 KiB; the rest is for others.
inline constexpr size_t table_bytes = 3840;
/// Of a grid's first dim.
inline constexpr int64_t most_blocks = 0x7fffffff;

/// Ranges, each of at least one block; `Range` says what a kernel needs of one.
template <typename Range>
struct BlockTable {
    static constexpr int capacity =
        static_cast<int>((table_bytes - 16) / (sizeof(Range) + sizeof(uint32_t)));
    int count = 0;
    uint32_t first_block[capacity + 1] = {};  ///< of each range, then the number of all blocks
    Range ranges[capacity] = {};

    /// The range that a block below first_block[count] belongs to.
    __device__ int range_of(uint32_t block) const {
        int low = 0, high = count;
        while (high - low > 1) {
            const int middle = (low + high) / 2;
            if (first_block[middle] <= block)
                low = middle;
            else
                high = middle;
        }
        return low;
    }
};

/// Fills tables and launches each as soon as it is full.
template <typename Range, typename Launch>
class BlockTables {
  public:
    /// launch(table, blocks) launches them.
    explicit BlockTables(Launch launch) : launch_(launch) { static_assert(sizeof(table_) <= 4000); }

    /// A range of no blocks is left out.
    void add(const Range& range, int64_t blocks) {
        if (blocks == 0) return;
        CHECK(blocks <= most_blocks, "{} blocks of one array", blocks);
        if (table_.count == table_.capacity || blocks_ + blocks > most_blocks) finish();
        table_.ranges[table_.count++] = range;
        blocks_ += blocks;
        table_.first_block[table_.count] = static_cast<uint32_t>(blocks_);
    }
    /// Launches what was added since the last launch.
    void finish() {
        if (table_.count == 0) return;
        launch_(table_, static_cast<unsigned>(blocks_));
        table_.count = 0;
        blocks_ = 0;
    }

  private:
    Launch launch_;
    BlockTable<Range> table_;
    int64_t blocks_ = 0;
};

}  // namespace plinth::kernels::cuda
