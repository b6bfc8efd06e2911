// SPDX-License-Identifier: Apache-2.0
// Two writers on one folder by mistake: neither removes what the other committed.
#include "checkpoints/attempt.h"

#include <gtest/gtest.h>

#include <set>
#include <thread>

#include "checkpoints/format.h"
#include "checkpoints/restore.h"
#include "checkpoints/writer.h"
#include "tests/support/expect_error.h"
#include "tests/support/faulty_files.h"
#include "tests/support/forwarding_files.h"
#include "tests/support/memory_files.h"
#include "tests/support/temporary_folder.h"
#include "tests/unit/checkpoints/state.h"

namespace plinth::checkpoints::test {
namespace {

using plinth::test::expect_error;
using plinth::test::MemoryFiles;

const std::string first_folder = "run/" + folder_name(20, 1);

/// The only checkpoint is that attempt at step 20, with the state of `seed`.
void expect_checkpoint(core::io::FileSystem& files, int64_t attempt, uint64_t seed) {
    core::SelfRanks ranks;
    State state = replicated(tiny_table(), 99);
    const Warn no_warning = [](const std::string& line) { ADD_FAILURE() << line; };
    const auto restored = restore_newest(files, ranks, "run", state.tensors, no_warning);
    ASSERT_TRUE(restored);
    EXPECT_EQ(restored->manifest.step, 20);
    EXPECT_EQ(restored->manifest.attempt, attempt);
    EXPECT_TRUE(state == replicated(tiny_table(), seed));
    EXPECT_EQ(files.list("run").size(), 1u);
}

/// A slow job's save meets `other`, which happens between its start and its commit.
SaveOutcome slow_save(core::io::FileSystem& files, const std::function<void()>& other) {
    core::SelfRanks ranks;
    Writer writer(files, ranks, {.threads = 1});
    const State state = replicated(tiny_table(), 1);
    writer.begin(request(state, 20));
    while (writer.local_state().busy > 0)
        std::this_thread::yield();
    other();
    return writer.finish();
}

void save(core::io::FileSystem& files, uint64_t seed) {
    core::SelfRanks ranks;
    Writer writer(files, ranks, {.threads = 1});
    const State state = replicated(tiny_table(), seed);
    EXPECT_TRUE(writer.save(request(state, 20)).committed);
}

TEST(Attempt, ASlowJobLeavesWhatAnotherCommitted) {
    MemoryFiles files;
    const SaveOutcome outcome = slow_save(files, [&] { save(files, 2); });
    EXPECT_FALSE(outcome.committed);
    EXPECT_NE(outcome.message.find("another job has removed"), std::string::npos)
        << outcome.message;
    expect_checkpoint(files, 2, 2);  // not 1, which the slow one still writes to
}

TEST(Attempt, AlsoUnderTheSameName) {
    MemoryFiles files;
    const SaveOutcome outcome = slow_save(files, [&] {
        files.remove_all(first_folder);  // by a job that is gone
        save(files, 2);
    });
    EXPECT_FALSE(outcome.committed);
    expect_checkpoint(files, 1, 2);
}

TEST(Attempt, AnUnfinishedOneOfTheSameNameIsNotCommittedByAnother) {
    MemoryFiles files;
    const SaveOutcome outcome = slow_save(files, [&] {
        const std::string data = files.bytes(first_folder + "/data-00000.bin");
        files.remove_all(first_folder);
        make_attempt(files, "run", 20, 0, new_writer_mark());
        files.open_write(first_folder + "/data-00000.bin", core::io::OpenMode::create_new);
        files.bytes(first_folder + "/data-00000.bin") = data;
    });
    EXPECT_FALSE(outcome.committed);
    EXPECT_TRUE(files.exists(first_folder + "/data-00000.bin"));
    EXPECT_FALSE(files.exists(first_folder + "/COMMIT"));
}

TEST(Attempt, TheNumberOfAFailedOneIsNotUsedAgain) {
    MemoryFiles memory;
    plinth::test::FaultyFiles files(memory, {.operation = 25});
    core::SelfRanks ranks;
    Writer writer(files, ranks, {.threads = 1});
    const State state = replicated(tiny_table(), 1);
    EXPECT_FALSE(writer.save(request(state, 20)).committed);
    EXPECT_TRUE(memory.list("run").empty());
    EXPECT_TRUE(writer.save(request(state, 20)).committed);
    expect_checkpoint(memory, 2, 1);
}

TEST(Attempt, EachOfManyWritersGetsItsOwn) {
    plinth::test::TemporaryFolder folder;
    std::vector<std::vector<uint64_t>> numbers(4);
    std::vector<std::thread> writers;
    for (auto& mine : numbers)
        writers.emplace_back([&] {
            for (int i = 0; i < 25; ++i) {
                auto& files = core::io::posix();
                const uint64_t used = newest_attempt(files, folder.path(), 20);
                mine.push_back(make_attempt(files, folder.path(), 20, used, new_writer_mark()));
            }
        });
    for (std::thread& writer : writers)
        writer.join();
    std::set<uint64_t> all;
    for (const auto& mine : numbers)
        all.insert(mine.begin(), mine.end());
    EXPECT_EQ(all.size(), 100u);
}

/// Memory runs out when retention reads the checkpoint back.
class NoMemory final : public plinth::test::ForwardingFiles {
  public:
    using ForwardingFiles::ForwardingFiles;
    std::unique_ptr<core::io::ReadableFile> open_read(const std::string& path) override {
        if (path.ends_with("/COMMIT")) throw std::bad_alloc();
        return ForwardingFiles::open_read(path);
    }
};

TEST(Attempt, NoMemoryForRetentionLeavesTheCommittedCheckpoint) {
    MemoryFiles memory;
    NoMemory files(memory);
    core::SelfRanks ranks;
    std::vector<std::string> warnings;
    WriterOptions options{.threads = 1, .retention = {.keep_newest = 1}};
    options.warn = [&](const std::string& line) { warnings.push_back(line); };
    Writer writer(files, ranks, options);
    const State state = replicated(tiny_table(), 1);
    for (const int64_t step : {19, 20}) {
        const SaveOutcome outcome = writer.save(request(state, step));
        EXPECT_TRUE(outcome.committed) << outcome.message;
    }
    writer.wait_retained();
    EXPECT_EQ(warnings.size(), 1u);
    EXPECT_EQ(memory.list("run").size(), 2u);
}

}  // namespace
}  // namespace plinth::checkpoints::test
