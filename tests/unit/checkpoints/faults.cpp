// SPDX-License-Identifier: Apache-2.0
// A fault at every operation of a save: the save says so, the older checkpoint stays, the newest is
// readable, and the next save works.
#include <gtest/gtest.h>

#include <cerrno>

#include "checkpoints/reader.h"
#include "checkpoints/restore.h"
#include "checkpoints/verify.h"
#include "checkpoints/writer.h"
#include "tests/support/faulty_files.h"
#include "tests/support/memory_files.h"
#include "tests/support/thread_ranks.h"
#include "tests/unit/checkpoints/state.h"

namespace plinth::checkpoints::test {
namespace {

using plinth::test::Fault;
using plinth::test::FaultyFiles;
using plinth::test::MemoryFiles;
using plinth::test::ThreadRanks;

const Warn no_warning = [](const std::string& line) { ADD_FAILURE() << line; };

WriterOptions options(bool retain) {
    WriterOptions result{.threads = 1};  // one order of operations
    if (retain) result.retention.keep_newest = 1;
    return result;
}

SaveOutcome save(Writer& writer, const SaveRequest& request, bool staged) {
    if (!staged) return writer.save(request);
    writer.begin(request);
    writer.wait_copied();
    return writer.finish();
}

/// The newest checkpoint is sound and holds the state of its step, which is at least `least`.
void expect_sound(MemoryFiles& files, int64_t least, const std::string& what) {
    core::SelfRanks ranks;
    State state = replicated(tiny_table(), 99);
    const auto restored = restore_newest(files, ranks, "run", state.tensors, no_warning);
    ASSERT_TRUE(restored) << what;
    EXPECT_GE(restored->manifest.step, least) << what;
    EXPECT_TRUE(state == replicated(tiny_table(), static_cast<uint64_t>(restored->manifest.step)))
        << what;
}

/// Step 1 is there; saving step 2 meets the fault on one rank. True while the fault was met.
bool survives(const MemoryFiles& before, int size, int faulty_rank, const Fault& fault,
              bool staged) {
    const auto files = before.clone();
    const std::string what =
        fmt::format("{} ranks, rank {} fails operation {}{}{}{}", size, faulty_rank,
                    fault.operation, fault.sticky ? " on" : "", fault.short_write ? ", short" : "",
                    staged ? ", asynchronous" : "");
    FaultyFiles faulty(*files, fault);
    std::vector<SaveOutcome> outcomes(static_cast<size_t>(size));
    ThreadRanks::run(size, [&](core::Ranks& ranks) {
        const State state = replicated(tiny_table(), 2);
        core::io::FileSystem& mine =
            ranks.rank() == faulty_rank ? static_cast<core::io::FileSystem&>(faulty) : *files;
        Writer writer(mine, ranks, options(true));
        outcomes[static_cast<size_t>(ranks.rank())] = save(writer, request(state, 2), staged);
    });
    for (const SaveOutcome& outcome : outcomes) {
        EXPECT_EQ(outcome.committed, outcomes[0].committed) << what;
        EXPECT_EQ(outcome.message, outcomes[0].message) << what;
        if (!outcome.committed) {
            EXPECT_NE(outcome.message.find("(injected)"), std::string::npos) << outcome.message;
        }
    }
    expect_sound(*files, outcomes[0].committed ? 2 : 1, what);
    // The disk works again: the next process saves and clears what was left.
    core::SelfRanks self;
    const State state = replicated(tiny_table(), 3);
    Writer writer(*files, self, options(true));
    EXPECT_TRUE(writer.save(request(state, 3)).committed) << what;
    writer.wait_retained();
    expect_sound(*files, 3, what);
    const auto left = list_checkpoints(*files, "run");
    EXPECT_EQ(left.size(), 1u) << what;
    return faulty.failed();
}

MemoryFiles& with_step_1() {
    static MemoryFiles files;
    if (files.paths().empty()) {
        core::SelfRanks ranks;
        Writer writer(files, ranks, options(false));
        CHECK(writer.save(request(replicated(tiny_table(), 1), 1)).committed, "step 1");
    }
    return files;
}

/// Every operation of a save in turn; returns how many there are.
int64_t every_operation(int size, int rank, int reason, bool sticky, bool short_write,
                        bool staged) {
    for (int64_t k = 0;; ++k) {
        const Fault fault{
            .operation = k, .reason = reason, .sticky = sticky, .short_write = short_write};
        if (!survives(with_step_1(), size, rank, fault, staged)) return k;
        if (testing::Test::HasFailure()) return k;
    }
}

TEST(Faults, EveryOperationOfASave) {
    int64_t operations = 0;
    for (const bool sticky : {false, true})
        for (const bool short_write : {false, true}) {
            operations = every_operation(1, 0, ENOSPC, sticky, short_write, false);
            every_operation(1, 0, EIO, sticky, short_write, true);
        }
    EXPECT_GT(operations, 30);
}

TEST(Faults, EveryOperationOfOneRankOfTwo) {
    for (const int rank : {0, 1})
        for (const bool sticky : {false, true})
            EXPECT_GE(every_operation(2, rank, ENOSPC, sticky, true, rank == 1), 4);
}

TEST(Faults, AWriterGoesOnAfterAFailedSave) {
    MemoryFiles memory;
    FaultyFiles files(memory, {.operation = 20});
    core::SelfRanks ranks;
    Writer writer(files, ranks, options(false));
    const State state = replicated(tiny_table(), 1);
    EXPECT_FALSE(writer.save(request(state, 1)).committed);
    EXPECT_TRUE(writer.save(request(state, 1)).committed);
    expect_sound(memory, 1, "after a failed save");
}

TEST(Faults, FoldersThatAreNotSharedAreFound) {
    MemoryFiles of_rank[2];
    ThreadRanks::run(2, [&](core::Ranks& ranks) {
        const State state = replicated(larger_table(), 1);
        MemoryFiles& mine = of_rank[ranks.rank()];
        mine.make_directories("run/step-000000000001.attempt-0001");
        if (ranks.rank() == 0) mine.remove_all("run");
        Writer writer(mine, ranks, options(false));
        const SaveOutcome outcome = writer.save(request(state, 1));
        EXPECT_FALSE(outcome.committed);
        EXPECT_NE(outcome.message.find("file system that all ranks share"), std::string::npos)
            << outcome.message;
    });
}

}  // namespace
}  // namespace plinth::checkpoints::test
