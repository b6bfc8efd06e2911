// SPDX-License-Identifier: Apache-2.0
// What was saved comes back: one rank and many, other rank counts, other layouts, synchronous and
// asynchronous.
#include <gtest/gtest.h>

#include <memory>

#include "checkpoints/reader.h"
#include "checkpoints/restore.h"
#include "checkpoints/verify.h"
#include "checkpoints/writer.h"
#include "tests/support/expect_error.h"
#include "tests/support/memory_files.h"
#include "tests/support/thread_ranks.h"
#include "tests/unit/checkpoints/counting_files.h"
#include "tests/unit/checkpoints/state.h"

namespace plinth::checkpoints::test {
namespace {

using plinth::test::expect_error;
using plinth::test::MemoryFiles;
using plinth::test::ThreadRanks;

const Warn no_warning = [](const std::string& line) { ADD_FAILURE() << line; };

TEST(RoundTrip, OneRank) {
    MemoryFiles files;
    core::SelfRanks ranks;
    const State saved = replicated(tiny_table(), 1);
    Writer writer(files, ranks, {.warn = no_warning});
    const SaveOutcome outcome = writer.save(request(saved, 7));
    ASSERT_TRUE(outcome.committed) << outcome.message;
    EXPECT_EQ(outcome.folder, "run/step-000000000007.attempt-0001");
    EXPECT_TRUE(verify(files, outcome.folder).empty());

    State loaded = replicated(tiny_table(), 2);
    ASSERT_FALSE(loaded == saved);
    const auto restored = restore_newest(files, ranks, "run", loaded.tensors, no_warning);
    ASSERT_TRUE(restored);
    EXPECT_TRUE(loaded == saved);
    Manifest expected = small_manifest(7);
    expected.run_id = run_a;
    expected.step = 7;
    expected.attempt = 1;
    expected.tensors = restored->manifest.tensors;
    EXPECT_EQ(restored->manifest, expected);
    EXPECT_EQ(expected.tensors.size(), tiny_table().size());
    EXPECT_EQ(restored->manifest.counter("consumed_samples"), 224);
    expect_error(
        ErrorKind::checkpoint, [&] { restored->manifest.counter("epochs"); }, "epochs");
    expect_error(
        ErrorKind::checkpoint, [&] { restored->manifest.blob("rng"); }, "rng");
}

TEST(RoundTrip, NoCheckpointIsNotAnError) {
    MemoryFiles files;
    core::SelfRanks ranks;
    State state = replicated(tiny_table(), 1);
    EXPECT_FALSE(restore_newest(files, ranks, "run", state.tensors, no_warning));
    EXPECT_FALSE(open_newest(files, "run", no_warning));
}

/// Saved by `from` data-parallel ranks, loaded by `to`.
void replicas(int from, int to, bool staged, bool distribute) {
    MemoryFiles files;
    const State expected = replicated(larger_table(), 5);
    ThreadRanks::run(from, [&](core::Ranks& ranks) {
        const State mine = replicated(larger_table(), 5);
        WriterOptions options{.node = ranks.rank() < 2 ? "a" : "b",
                              .file_bytes = 2 << 20,
                              .chunk_bytes = 1 << 20,
                              .warn = no_warning};
        Writer writer(files, ranks, options);
        SaveOutcome outcome;
        if (staged) {
            writer.begin(request(mine, 3));
            writer.wait_copied();
            outcome = writer.finish();
        } else {
            outcome = writer.save(request(mine, 3));
        }
        EXPECT_TRUE(outcome.committed) << outcome.message;
    });
    const Checkpoint checkpoint =
        Checkpoint::open(files, list_checkpoints(files, "run").at(0).folder);
    // Every byte is written once, whatever the number of ranks.
    uint64_t bytes = 0;
    for (const TensorInfo& info : checkpoint.manifest().tensors)
        bytes += static_cast<uint64_t>(info.global_shape.elements()) * size_of(info.dtype);
    EXPECT_LE(checkpoint.data_bytes(), bytes + 64 * (4 * 4 + 2 * checkpoint.data_files()) + 64);
    EXPECT_TRUE(verify(files, checkpoint.folder()).empty());
    ThreadRanks::run(to, [&](core::Ranks& ranks) {
        State mine = replicated(larger_table(), 6);
        const LoadOptions options{.distribute = distribute};
        EXPECT_TRUE(restore_newest(files, ranks, "run", mine.tensors, no_warning, options));
        EXPECT_TRUE(mine == expected) << from << " ranks to " << to;
    });
}

TEST(RoundTrip, OtherRankCounts) {
    for (int from = 1; from <= 4; ++from)
        for (int to = 1; to <= 4; ++to)
            replicas(from, to, (from + to) % 2 == 0, to != 3);
}

/// A cut as an optimizer shard makes it: rank r of `size` holds a flat range.
State flat_shards(int rank, int size, uint64_t seed) {
    State state;
    for (const Entry& entry : larger_table()) {
        core::Shard shard = core::Shard::whole(entry.shape);
        const int64_t n = shard.end;
        shard.begin = n * rank / size;
        shard.end = n * (rank + 1) / size;
        state.add(entry.name, entry.dtype, shard, seed);
    }
    return state;
}

/// A cut as tensor parallelism makes it: boxes along the last dim.
State columns(int rank, int size, uint64_t seed) {
    State state;
    for (const Entry& entry : larger_table()) {
        core::Shard shard = core::Shard::whole(entry.shape);
        const int last = entry.shape.rank() - 1;
        int64_t offset[max_dims] = {}, local[max_dims] = {};
        for (int i = 0; i <= last; ++i)
            local[i] = entry.shape[i];
        offset[last] = entry.shape[-1] * rank / size;
        local[last] = entry.shape[-1] * (rank + 1) / size - offset[last];
        const auto dims = static_cast<size_t>(entry.shape.rank());
        shard.offset = Shape(std::span<const int64_t>(offset, dims));
        shard.local_shape = Shape(std::span<const int64_t>(local, dims));
        shard.end = shard.local_shape.elements();
        state.add(entry.name, entry.dtype, shard, seed);
    }
    return state;
}

/// A cut as ZeRO makes it: rank r holds a range of each of several stretches.
State many_parts(int rank, int size, uint64_t seed) {
    State state;
    constexpr int stretches = 5;
    for (const Entry& entry : larger_table())
        for (int stretch = 0; stretch < stretches; ++stretch) {
            core::Shard shard = core::Shard::whole(entry.shape);
            const int64_t n = shard.end;
            const auto cut = [&](int part) {
                return n * (stretch * size + part) / (stretches * size);
            };
            shard.begin = cut(rank);
            shard.end = cut(rank + 1);
            if (shard.elements() > 0) state.add(entry.name, entry.dtype, shard, seed);
        }
    return state;
}

State whole(int, int, uint64_t seed) {
    return replicated(larger_table(), seed);
}

TEST(RoundTrip, AnyLayoutReadsAnyOther) {
    using Layout = State (*)(int, int, uint64_t);
    const Layout layouts[] = {whole, flat_shards, columns, many_parts};
    for (const Layout from : layouts)
        for (const Layout to : layouts) {
            MemoryFiles files;
            ThreadRanks::run(3, [&](core::Ranks& ranks) {
                const State mine = from(ranks.rank(), 3, 1);
                Writer writer(files, ranks, {.warn = no_warning});
                EXPECT_TRUE(writer.save(request(mine, 1)).committed);
            });
            ThreadRanks::run(2, [&](core::Ranks& ranks) {
                State mine = to(ranks.rank(), 2, 9);
                const State expected = to(ranks.rank(), 2, 1);
                EXPECT_TRUE(restore_newest(files, ranks, "run", mine.tensors, no_warning));
                EXPECT_TRUE(mine == expected);
            });
        }
}

/// What rank r of four holds of 24 tensors of 64 KiB and one that all hold.
using Layout4 = State (*)(int rank, uint64_t seed);
constexpr int tensors_of_layouts = 24;
const Shape shape_of_layouts{128, 128};

/// The first half of the tensors on stage 0, the others on stage 1; two context ranks in each.
State context_and_pipeline(int rank, uint64_t seed) {
    State state;
    for (int i = 0; i < tensors_of_layouts; ++i)
        if (i / (tensors_of_layouts / 2) == rank / 2)
            state.add(fmt::format("model.{}", i), DType::f32, core::Shard::whole(shape_of_layouts),
                      seed);
    state.add("optimizer.count", DType::i64, core::Shard::whole({}), seed);
    return state;
}

/// Rows in halves over two tensor ranks, which vary fastest; two data ranks.
State data_and_tensor(int rank, uint64_t seed) {
    State state;
    for (int i = 0; i < tensors_of_layouts; ++i) {
        core::Shard half = core::Shard::whole(shape_of_layouts);
        half.local_shape = {64, 128};
        half.offset = {64 * (rank % 2), 0};
        half.end = half.local_shape.elements();
        state.add(fmt::format("model.{}", i), DType::f32, half, seed);
    }
    state.add("optimizer.count", DType::i64, core::Shard::whole({}), seed);
    return state;
}

/// Bytes of tensors that each of four ranks reads to restore what four ranks of the same layout
/// have saved, beside what opening the checkpoint takes.
std::vector<uint64_t> bytes_read(Layout4 layout, bool distribute) {
    constexpr int ranks_of_layout = 4;
    MemoryFiles files;
    ThreadRanks::run(ranks_of_layout, [&](core::Ranks& ranks) {
        const State mine = layout(ranks.rank(), 1);
        Writer writer(files, ranks, {.warn = no_warning});
        EXPECT_TRUE(writer.save(request(mine, 1)).committed);
    });
    std::vector<uint64_t> bytes(ranks_of_layout);
    ThreadRanks::run(ranks_of_layout, [&](core::Ranks& ranks) {
        CountingFiles counting(files);
        const std::string folder = list_checkpoints(counting, "run").at(0).folder;
        const Checkpoint checkpoint = Checkpoint::open(counting, folder);
        counting.forget();
        State mine = layout(ranks.rank(), 9);
        load(checkpoint, ranks, mine.tensors, {.distribute = distribute});
        EXPECT_TRUE(mine == layout(ranks.rank(), 1)) << "rank " << ranks.rank();
        bytes[static_cast<size_t>(ranks.rank())] = counting.bytes();
    });
    return bytes;
}

TEST(RoundTrip, WhatSomeRanksWantAlikeIsReadOnce) {
    constexpr uint64_t all = tensors_of_layouts * 128 * 128 * 4;
    constexpr uint64_t padding = 64 * (2 * tensors_of_layouts + 1);
    for (const Layout4 layout : {context_and_pipeline, data_and_tensor}) {
        const std::vector<uint64_t> bytes = bytes_read(layout, /*distribute=*/true);
        for (const uint64_t of_rank : bytes) {
            EXPECT_GE(of_rank, all / 4);
            EXPECT_LE(of_rank, all / 4 + padding);
        }
        const std::vector<uint64_t> alone = bytes_read(layout, /*distribute=*/false);
        for (const uint64_t of_rank : alone)
            EXPECT_GE(of_rank, all / 2) << "the count can tell";
    }
}

TEST(RoundTrip, AByteThatOneOfTheRanksOfAStageCannotReadStopsAll) {
    MemoryFiles files;
    ThreadRanks::run(4, [&](core::Ranks& ranks) {
        Writer writer(files, ranks, {.warn = no_warning});
        EXPECT_TRUE(writer.save(request(context_and_pipeline(ranks.rank(), 1), 1)).committed);
    });
    const std::string folder = list_checkpoints(files, "run").at(0).folder;
    std::string& bytes = files.bytes(folder + "/data-00000.bin");
    bytes[bytes.size() / 4] ^= 1;
    ThreadRanks::run(4, [&](core::Ranks& ranks) {
        const Checkpoint checkpoint = Checkpoint::open(files, folder);
        State mine = context_and_pipeline(ranks.rank(), 9);
        expect_error(
            ErrorKind::checkpoint, [&] { load(checkpoint, ranks, mine.tensors); }, "model.",
            "data-00000.bin");
    });
}

TEST(RoundTrip, AsynchronousCopyIsTheStateAtBegin) {
    MemoryFiles files;
    core::SelfRanks ranks;
    State state = replicated(larger_table(), 1);
    const State before = replicated(larger_table(), 1);
    Writer writer(files, ranks, {});
    for (int64_t step = 1; step <= 2; ++step) {
        writer.begin(request(state, step));
        EXPECT_TRUE(writer.active());
        writer.wait_copied();
        if (step == 2) state.clear();  // the optimizer changes everything
        std::optional<SaveOutcome> outcome;
        while (!outcome)
            outcome = writer.advance(writer.local_state());
        EXPECT_TRUE(outcome->committed) << outcome->message;
        EXPECT_FALSE(writer.active());
        EXPECT_FALSE(writer.advance(writer.local_state()));
    }
    ASSERT_TRUE(restore_newest(files, ranks, "run", state.tensors, no_warning));
    EXPECT_TRUE(state == before);
}

TEST(RoundTrip, SavingAStepAgainIsAnotherAttempt) {
    MemoryFiles files;
    core::SelfRanks ranks;
    Writer writer(files, ranks, {});
    const State first = replicated(tiny_table(), 1), second = replicated(tiny_table(), 2);
    EXPECT_TRUE(writer.save(request(first, 5)).committed);
    EXPECT_TRUE(writer.save(request(second, 5)).committed);
    State loaded = replicated(tiny_table(), 3);
    const auto restored = restore_newest(files, ranks, "run", loaded.tensors, no_warning);
    ASSERT_TRUE(restored);
    EXPECT_EQ(restored->manifest.attempt, 2);
    EXPECT_TRUE(loaded == second);
}

TEST(RoundTrip, ATableOfAnotherModelIsRefusedByName) {
    MemoryFiles files;
    core::SelfRanks ranks;
    Writer writer(files, ranks, {});
    for (const int64_t step : {1, 2})
        EXPECT_TRUE(writer.save(request(replicated(tiny_table(), 1), step)).committed);
    const auto refuse = [&](const std::vector<Entry>& table, const std::string& part,
                            const std::string& other) {
        State state = replicated(table, 1);
        expect_error(
            ErrorKind::checkpoint,
            [&] { restore_newest(files, ranks, "run", state.tensors, no_warning); }, part, other);
    };
    auto table = tiny_table();
    table.push_back({"model.more", DType::f32, {2}});
    refuse(table, "model.more", "does not have it");
    table = tiny_table();
    table[0].shape = {13, 9};
    refuse(table, "model.embedding.weight", "f32 [13, 8]");
    table = tiny_table();
    table[1].dtype = DType::bf16;
    refuse(table, "model.norm.weight", "holds it as f32");
    table = tiny_table();
    table.erase(table.begin());
    refuse(table, "1 tensors that this model does not have", "model.embedding.weight");
    // A part of the table may be wanted.
    State part = replicated(table, 4);
    const Checkpoint checkpoint = Checkpoint::open(files, list_checkpoints(files, "run")[0].folder);
    load(checkpoint, ranks, part.tensors, {.subset = true});
    EXPECT_TRUE(part == replicated(table, 1));
}

TEST(RoundTrip, RanksMustHoldAPartition) {
    MemoryFiles files;
    core::SelfRanks ranks;
    State state;
    core::Shard half = core::Shard::whole({4000});
    half.end = 2000;
    state.add("model.half", DType::f32, half, 1);
    Writer writer(files, ranks, {});
    expect_error(
        ErrorKind::internal, [&] { writer.save(request(state, 1)); }, "model.half",
        "element 2000 is missing");
}

TEST(RoundTrip, InspectNamesWhatIsThere) {
    MemoryFiles files;
    core::SelfRanks ranks;
    Writer writer(files, ranks, {});
    const std::string folder = writer.save(request(replicated(tiny_table(), 1), 5)).folder;
    const std::string text = inspect(files, folder);
    for (const char* part : {"step 5", "consumed_samples = 160", "model.norm.weight", "[13, 8]",
                             "bf16", "isa: avx2", "mesh dp = 2", "vocab.json", "steps: 10"})
        EXPECT_NE(text.find(part), std::string::npos) << part << " is missing in\n" << text;
}

TEST(RoundTrip, AReservedSaveTakesNoMoreMemory) {
    for (const bool reserved : {true, false}) {
        MemoryFiles files;
        ThreadRanks::run(2, [&](core::Ranks& ranks) {
            CachingAllocator memory(host_memory());
            Writer writer(files, ranks, {.allocator = &memory});
            const State state = replicated(larger_table(), 1);
            if (reserved) writer.reserve(state.tensors);
            const size_t before = memory.use().reserved;
            writer.begin(request(state, 1));
            EXPECT_TRUE(writer.finish().committed);
            const size_t after = memory.use().reserved;
            EXPECT_GT(after, size_t{700} * 513 * 4 / 2);
            EXPECT_LT(after, size_t{700} * 513 * 4);
            EXPECT_EQ(before, reserved ? after : 0);
        });
    }
}

}  // namespace
}  // namespace plinth::checkpoints::test
