// SPDX-License-Identifier: Apache-2.0
// What each rank reads of a checkpoint that another layout has written: the checksum blocks that
// hold what it wants, each of them once.
#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <iterator>
#include <set>
#include <span>

#include "checkpoints/format.h"
#include "checkpoints/reader.h"
#include "checkpoints/reshard.h"
#include "checkpoints/restore.h"
#include "checkpoints/writer.h"
#include "tests/support/memory_files.h"
#include "tests/support/thread_ranks.h"
#include "tests/unit/checkpoints/counting_files.h"
#include "tests/unit/checkpoints/state.h"

namespace plinth::checkpoints::test {
namespace {

using plinth::test::MemoryFiles;
using plinth::test::ThreadRanks;

/// Of two blocks and three quarters of one; neither size is a multiple of all cuts.
const std::vector<Entry> table{{"model.a", DType::f32, {704, 1024}},
                               {"model.b", DType::bf16, {1200, 1201}}};

/// What rank r of four holds of one tensor.
using Layout = core::Shard (*)(const Shape& shape, int rank);

core::Shard range(core::Shard box, int part, int parts) {
    const int64_t n = box.local_shape.elements();
    box.begin = n * part / parts;
    box.end = n * (part + 1) / parts;
    return box;
}

core::Shard box(const Shape& shape, int dim, int part, int parts) {
    int64_t offset[2] = {0, 0}, local[2] = {shape[0], shape[1]};
    offset[dim] = shape[dim] * part / parts;
    local[dim] = shape[dim] * (part + 1) / parts - offset[dim];
    core::Shard shard{shape, Shape(offset), Shape(local), 0, 0};
    shard.end = shard.local_shape.elements();
    return shard;
}

core::Shard whole(const Shape& shape, int) {
    return core::Shard::whole(shape);
}
/// Of four tensor ranks.
core::Shard columns(const Shape& shape, int rank) {
    return box(shape, 1, rank, 4);
}
core::Shard rows(const Shape& shape, int rank) {
    return box(shape, 0, rank, 4);
}
/// Of four owners of ZeRO.
core::Shard owned(const Shape& shape, int rank) {
    return range(core::Shard::whole(shape), rank, 4);
}
/// Two tensor ranks, which vary fastest, and two owners of what each has.
core::Shard owned_columns(const Shape& shape, int rank) {
    return range(box(shape, 1, rank % 2, 2), rank / 2, 2);
}
/// Two tensor ranks, and two data ranks that hold the same.
core::Shard shared_columns(const Shape& shape, int rank) {
    return box(shape, 1, rank % 2, 2);
}

State state_of(Layout layout, int rank, uint64_t seed) {
    State state;
    for (const Entry& entry : table)
        state.add(entry.name, entry.dtype, layout(entry.shape, rank), seed);
    return state;
}

/// Numbers in the whole tensor of a shard's elements, through coordinates.
template <typename Visit>
void visit_elements(const core::Shard& shard, Visit&& visit) {
    const int64_t wide = shard.local_shape[1];
    for (int64_t i = shard.begin; i < shard.end; ++i)
        visit(i, (i / wide + shard.offset[0]) * shard.global_shape[1] + i % wide + shard.offset[1]);
}

/// Bytes of all checksum blocks that hold something of what a rank wants.
uint64_t touched(const Checkpoint& checkpoint, Layout layout, int rank) {
    uint64_t bytes = 0;
    for (const Entry& entry : table) {
        std::vector<bool> wanted(static_cast<size_t>(entry.shape.elements()), false);
        visit_elements(layout(entry.shape, rank), [&](int64_t, int64_t global) {
            wanted[static_cast<size_t>(global)] = true;
        });
        const uint64_t element = size_of(entry.dtype);
        for (const Location& where : checkpoint.locations(entry.name)) {
            std::set<uint64_t> blocks;
            const core::Shard& shard = where.piece.shard;
            visit_elements(shard, [&](int64_t local, int64_t global) {
                if (wanted[static_cast<size_t>(global)])
                    blocks.insert(static_cast<uint64_t>(local - shard.begin) * element /
                                  block_bytes);
            });
            for (const uint64_t block : blocks)
                bytes += padded(std::min(block_bytes, where.piece.bytes() - block * block_bytes));
        }
    }
    return bytes;
}

using Load = std::function<void(const Checkpoint&, core::Ranks&, State&)>;

void sound_load(const Checkpoint& checkpoint, core::Ranks& ranks, State& state) {
    load(checkpoint, ranks, state.tensors);
}

/// The mutant: of each piece that holds something wanted it takes the whole.
void load_whole_pieces(const Checkpoint& checkpoint, core::Ranks&, State& state) {
    std::vector<std::byte> bytes;
    for (const core::StateTensor& tensor : state.tensors)
        for (const Location& where : checkpoint.locations(tensor.name)) {
            const std::vector<Overlap> common = overlaps(where.piece.shard, tensor.shard);
            if (common.empty()) continue;
            const uint64_t size = where.piece.bytes(), element = size_of(tensor.dtype);
            bytes.resize(padded(size));
            for (uint64_t at = 0; at < size; at += block_bytes)
                checkpoint.read_block(
                    where, at / block_bytes,
                    std::span(bytes).subspan(at, padded(std::min(block_bytes, size - at))));
            for (const Overlap& part : common)
                std::memcpy(
                    static_cast<std::byte*>(tensor.data) + static_cast<uint64_t>(part.to) * element,
                    bytes.data() + static_cast<uint64_t>(part.from) * element,
                    static_cast<uint64_t>(part.count) * element);
        }
}

struct Reading {
    uint64_t bytes = 0;    ///< of data files, beside what opening the checkpoint takes
    uint64_t touched = 0;  ///< bytes of the blocks that hold what is wanted
};

struct Case {
    Layout from;
    int writers;
    Layout to;
};

/// What each of four ranks reads to restore in layout `to` what `writers` have saved in `from`.
std::vector<Reading> bytes_read(const Case& layouts, const Load& load_state) {
    MemoryFiles files;
    ThreadRanks::run(layouts.writers, [&](core::Ranks& ranks) {
        const State mine = state_of(layouts.from, ranks.rank(), 1);
        Writer writer(files, ranks, {});
        EXPECT_TRUE(writer.save(request(mine, 1)).committed);
    });
    constexpr int readers = 4;
    std::vector<Reading> all(readers);
    ThreadRanks::run(readers, [&](core::Ranks& ranks) {
        CountingFiles counting(files);
        const std::string folder = list_checkpoints(counting, "run").at(0).folder;
        const Checkpoint checkpoint = Checkpoint::open(counting, folder);
        counting.forget();
        State mine = state_of(layouts.to, ranks.rank(), 9);
        load_state(checkpoint, ranks, mine);
        EXPECT_TRUE(mine == state_of(layouts.to, ranks.rank(), 1)) << "rank " << ranks.rank();
        all[static_cast<size_t>(ranks.rank())] = {counting.bytes(),
                                                  touched(checkpoint, layouts.to, ranks.rank())};
    });
    return all;
}

TEST(BytesRead, AreThoseOfTheBlocksThatARankWants) {
    const Case cases[] = {
        {whole, 1, columns},
        {whole, 1, owned_columns},
        {whole, 1, owned},
        {whole, 4, rows},
        {columns, 4, whole},
        {shared_columns, 2, rows},
        {owned, 4, columns},
        {owned, 4, owned_columns},
        {rows, 4, owned},
        {owned_columns, 4, columns},
        {owned_columns, 4, owned},
        {shared_columns, 4, owned},
        {owned, 4, shared_columns},
        {shared_columns, 2, columns},
        {columns, 4, owned_columns},
    };
    for (size_t i = 0; i < std::size(cases); ++i) {
        const std::vector<Reading> ranks = bytes_read(cases[i], sound_load);
        for (size_t rank = 0; rank < ranks.size(); ++rank)
            EXPECT_LE(ranks[rank].bytes, ranks[rank].touched) << "case " << i << ", rank " << rank;
    }
}

TEST(BytesRead, WhatTwoRanksWantAlikeIsReadByOneOfThem) {
    for (const Case& layouts : {Case{columns, 4, shared_columns}, Case{owned, 4, shared_columns}}) {
        const std::vector<Reading> ranks = bytes_read(layouts, sound_load);
        for (const size_t rank : {0u, 1u})
            EXPECT_LE(ranks[rank].bytes + ranks[rank + 2].bytes, ranks[rank].touched);
    }
}

TEST(BytesReadMutant, WholePiecesShow) {
    for (const Case& layouts : {Case{whole, 1, owned}, Case{shared_columns, 2, rows}}) {
        int more = 0;
        for (const Reading& reading : bytes_read(layouts, load_whole_pieces))
            more += reading.bytes > reading.touched ? 1 : 0;
        EXPECT_GE(more, 3);
    }
}

}  // namespace
}  // namespace plinth::checkpoints::test
