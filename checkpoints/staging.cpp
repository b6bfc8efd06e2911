// SPDX-License-Identifier: Apache-2.0
#include "checkpoints/staging.h"

#include <algorithm>
#include <unordered_map>

#include "core/io/crc32c.h"
#include "kernels/runtime/device_module.h"
#include "kernels/runtime/error.h"

namespace plinth::checkpoints {

namespace {
/// True if `part` is a range of the same box.
bool holds(const core::Shard& shard, const core::Shard& part) {
    return shard.offset == part.offset && shard.local_shape == part.local_shape &&
           shard.begin <= part.begin && part.end <= shard.end;
}
}  // namespace

RankPart make_part(const SavePlan& plan, int rank, std::span<const core::StateTensor> tensors,
                   uint64_t chunk_bytes) {
    std::unordered_multimap<std::string_view, const core::StateTensor*> by_name;
    for (const core::StateTensor& tensor : tensors)
        by_name.emplace(tensor.name, &tensor);
    RankPart part;
    for (const PlannedPiece& planned : plan.pieces) {
        if (planned.rank != rank) continue;
        const Piece& piece = planned.piece;
        const auto [first, last] = by_name.equal_range(piece.tensor);
        const auto found = std::find_if(
            first, last, [&](const auto& one) { return holds(one.second->shard, piece.shard); });
        CHECK(found != last, "{}: a piece that this rank does not hold", piece.tensor);
        const core::StateTensor& tensor = *found->second;
        const auto skipped = static_cast<uint64_t>(piece.shard.begin - tensor.shard.begin);
        const auto* source =
            static_cast<const std::byte*>(tensor.data) + skipped * size_of(piece.dtype);
        for (uint64_t at = 0; at < piece.bytes(); at += block_bytes) {
            const uint64_t bytes = std::min(block_bytes, piece.bytes() - at);
            const bool follows = !part.chunks.empty() && part.chunks.back().file == planned.file &&
                                 part.chunks.back().bytes + padded(bytes) <= chunk_bytes;
            if (!follows) part.chunks.push_back({planned.file, piece.offset + at, 0, {}});
            Chunk& chunk = part.chunks.back();
            CHECK(chunk.offset + chunk.bytes == piece.offset + at, "gap before {} in file {}",
                  piece.tensor, planned.file);
            chunk.blocks.push_back(
                {source + at, tensor.device, bytes, part.pieces.size(), at / block_bytes});
            chunk.bytes += padded(bytes);
            part.bytes += padded(bytes);
        }
        part.pieces.push_back(planned);
        part.pieces.back().piece.crc32c.resize(blocks_of(piece.bytes()));
    }
    return part;
}

void fill(std::span<std::byte> out, const Chunk& chunk, RankPart& part) {
    CHECK(out.size() == chunk.bytes, "a chunk of {} bytes for {}", chunk.bytes, out.size());
    for (const Block& block : chunk.blocks) {
        const std::span<std::byte> target = out.first(padded(block.bytes));
        copy_bytes(target.data(), {}, block.source, block.device, block.bytes);
        std::fill(target.begin() + static_cast<std::ptrdiff_t>(block.bytes), target.end(),
                  std::byte{0});
        part.pieces[block.piece].piece.crc32c[block.number] = core::io::crc32c(0, target);
        out = out.subspan(target.size());
    }
}

}  // namespace plinth::checkpoints
