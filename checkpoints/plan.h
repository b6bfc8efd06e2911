// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "checkpoints/checkpoint.h"
#include "checkpoints/manifest.h"
#include "core/ranks.h"
#include "core/tensor/shard.h"

/// Who writes which bytes of which file: the same answer on every rank, from the tables of all.
namespace plinth::checkpoints {

/// Shards are cut only at multiples of this many elements (DESIGN section 5).
inline constexpr int64_t cut_elements = 1024;

struct PlannedPiece {
    int rank = 0;  ///< the writer
    uint64_t file = 0;
    Piece piece;  ///< without checksums
};

struct SavePlan {
    std::vector<TensorInfo> tensors;   ///< sorted by name
    std::vector<uint64_t> file_sizes;  ///< superblocks included
    std::vector<PlannedPiece> pieces;  ///< by file and offset; each rank's are contiguous in a file
};

/// What each rank holds. Ranks with equal tables share one copy of it.
struct RankTables {
    std::vector<std::vector<Piece>> tables;
    std::vector<size_t> table_of_rank;
    std::vector<std::string> node_of_rank;
};

/// Collective: every rank learns every rank's table and node.
RankTables exchange_tables(core::Ranks& ranks, std::span<const core::StateTensor> tensors,
                           const std::string& node);

/// Equal shards are replicas: they are cut, at `cut_elements`, into as many parts as they have
/// holders, and each part is written by the holder that has the fewest bytes to write so far. So
/// all bytes are written once, and by all ranks in parallel, also where holders differ from tensor
/// to tensor. Ranks of a node fill files of at most `file_bytes` in rank order. Shards that leave
/// gaps or overlap otherwise are an error.
SavePlan make_plan(const RankTables& tables, uint64_t file_bytes);

}  // namespace plinth::checkpoints
