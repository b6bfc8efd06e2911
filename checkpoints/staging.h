// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "checkpoints/plan.h"
#include "core/tensor/shard.h"

/// One rank's part of a save as a list of large writes.
namespace plinth::checkpoints {

/// Bytes of a checksum block, taken from a tensor.
struct Block {
    const std::byte* source = nullptr;
    Device device;
    uint64_t bytes = 0;  ///< at most `block_bytes`
    size_t piece = 0;    ///< of the rank's pieces
    size_t number = 0;   ///< of the block in that piece
};

/// Blocks that follow each other in one file, padding between them: one write.
struct Chunk {
    uint64_t file = 0;
    uint64_t offset = 0;
    uint64_t bytes = 0;
    std::vector<Block> blocks;
};

/// The rank's pieces, their checksums (filled while copying) and the writes that they make.
struct RankPart {
    std::vector<PlannedPiece> pieces;
    std::vector<Chunk> chunks;
    uint64_t bytes = 0;  ///< of all chunks
};

/// Cuts a rank's pieces into writes of about `chunk_bytes`. `tensors` must be the table that the
/// plan was made from.
RankPart make_part(const SavePlan& plan, int rank, std::span<const core::StateTensor> tensors,
                   uint64_t chunk_bytes);

/// Copies a chunk's bytes to `out` (chunk.bytes long), zeroes its padding and fills the checksums
/// of its blocks while they are in cache.
void fill(std::span<std::byte> out, const Chunk& chunk, RankPart& part);

}  // namespace plinth::checkpoints
