// SPDX-License-Identifier: Apache-2.0
// Tensors that are kept with more rows than are wanted.
#include <gtest/gtest.h>

#include "checkpoints/restore.h"
#include "checkpoints/writer.h"
#include "tests/support/expect_error.h"
#include "tests/support/memory_files.h"
#include "tests/support/thread_ranks.h"
#include "tests/unit/checkpoints/state.h"

namespace plinth::checkpoints::test {
namespace {

using plinth::test::expect_error;
using plinth::test::MemoryFiles;
using plinth::test::ThreadRanks;

const Warn no_warning = [](const std::string& line) { ADD_FAILURE() << line; };
constexpr uint64_t seed = 8;
const std::string table = "model.table";
constexpr int64_t width = 513;

/// A table of that many rows, and a tensor that is what it is; ranks have parts of their rows, or
/// ranges of their elements. The bytes of a row do not depend on the number of rows.
State state_of(int64_t rows, int rank, int size, bool in_boxes) {
    State state;
    for (const auto& [name, shape] : std::vector<std::pair<std::string, Shape>>{
             {table, {rows, width}}, {"model.other", {50, 7}}}) {
        core::Shard shard = core::Shard::whole(shape);
        const int64_t first = shape[0] * rank / size, last = shape[0] * (rank + 1) / size;
        if (in_boxes) {
            shard.offset = Shape{first, 0};
            shard.local_shape = Shape{last - first, shape[1]};
            shard.end = shard.local_shape.elements();
        } else {
            shard.begin = shape.elements() * rank / size;
            shard.end = shape.elements() * (rank + 1) / size;
        }
        state.add(name, DType::f32, shard, seed);
    }
    return state;
}

TEST(MoreRows, RowsBehindThoseThatAreWantedStayUnread) {
    for (const int64_t kept : {640, 1500}) {
        MemoryFiles files;
        ThreadRanks::run(2, [&](core::Ranks& ranks) {
            State mine = state_of(kept, ranks.rank(), ranks.size(), /*in_boxes=*/true);
            Writer writer(files, ranks, {});
            CHECK(writer.save(request(mine, 1)).committed, "not saved");
        });
        for (const int to : {1, 2, 3})
            for (const bool in_boxes : {true, false})
                for (const bool distribute : {true, false})
                    ThreadRanks::run(to, [&](core::Ranks& ranks) {
                        const State wanted = state_of(601, ranks.rank(), to, in_boxes);
                        State mine = state_of(601, ranks.rank(), to, in_boxes);
                        mine.clear();
                        CHECK(!(mine == wanted), "the comparison sees nothing");
                        int asked = 0;
                        LoadOptions options{.distribute = distribute};
                        options.may_have_more_rows = [&](const Manifest& manifest,
                                                         const TensorInfo& info, int64_t rows) {
                            ++asked;
                            return manifest.counter("updates") == 1 && info.name == table &&
                                   info.global_shape == Shape{kept, width} && rows == 601;
                        };
                        restore_newest(files, ranks, "run", mine.tensors, no_warning, options);
                        CHECK(mine == wanted, "other bytes");
                        CHECK(asked == 1, "asked {} times", asked);
                    });
    }
}

TEST(MoreRows, AreRefusedWhereNobodyExpectsThem) {
    MemoryFiles files;
    core::SelfRanks ranks;
    Writer writer(files, ranks, {});
    State kept = state_of(640, 0, 1, true);
    ASSERT_TRUE(writer.save(request(kept, 1)).committed);
    const auto expect_refused = [&](State wanted, bool may_have_more, const char* says) {
        LoadOptions options;
        if (may_have_more)
            options.may_have_more_rows = [](const auto&, const auto&, int64_t) { return true; };
        expect_error(
            ErrorKind::checkpoint,
            [&] { restore_newest(files, ranks, "run", wanted.tensors, no_warning, options); },
            table, says);
    };
    expect_refused(state_of(601, 0, 1, true), false, "holds it as f32 [640, 513]");
    expect_refused(state_of(641, 0, 1, true), true, "f32 [641, 513]");  // fewer are kept
    State narrower;
    narrower.add(table, DType::f32, core::Shard::whole({601, width - 1}), seed);
    narrower.add("model.other", DType::f32, core::Shard::whole({50, 7}), seed);
    expect_refused(std::move(narrower), true, "f32 [601, 512]");
}

}  // namespace
}  // namespace plinth::checkpoints::test
