// SPDX-License-Identifier: Apache-2.0
#include "checkpoints/retention.h"

#include <gtest/gtest.h>

#include "checkpoints/format.h"
#include "checkpoints/reader.h"
#include "checkpoints/writer.h"
#include "tests/support/expect_error.h"
#include "tests/support/faulty_files.h"
#include "tests/support/memory_files.h"
#include "tests/unit/checkpoints/state.h"

namespace plinth::checkpoints::test {
namespace {

using plinth::test::MemoryFiles;

void save_steps(MemoryFiles& files, int64_t count, RetentionPolicy policy = {}) {
    core::SelfRanks ranks;
    Writer writer(files, ranks, {.threads = 1, .retention = policy});
    const State state = replicated(tiny_table(), 1);
    for (int64_t step = 1; step <= count; ++step)
        ASSERT_TRUE(writer.save(request(state, step)).committed);
}

std::vector<int64_t> steps(MemoryFiles& files) {
    std::vector<int64_t> found;
    for (const Candidate& candidate : list_checkpoints(files, "run"))
        if (candidate.committed) found.push_back(static_cast<int64_t>(candidate.step));
    return found;
}

TEST(Retention, KeepsTheNewestAndEveryNth) {
    MemoryFiles files;
    save_steps(files, 12, {.keep_newest = 2, .keep_every = 5});
    EXPECT_EQ(steps(files), (std::vector<int64_t>{12, 11, 10, 5}));
}

TEST(Retention, KeepsAllByDefault) {
    MemoryFiles files;
    save_steps(files, 4);
    EXPECT_EQ(steps(files), (std::vector<int64_t>{4, 3, 2, 1}));
}

TEST(Retention, NeverRemovesTheLastSoundOne) {
    for (const bool every_byte : {true, false}) {
        MemoryFiles files;
        save_steps(files, 3);
        const std::string newest = list_checkpoints(files, "run")[0].folder;
        files.bytes(newest + (every_byte ? "/data-00000.bin" : "/manifest"))[80] ^= 1;
        std::vector<std::string> warnings;
        const Warn warn = [&](const std::string& line) { warnings.push_back(line); };
        Retention retention(files, {.keep_newest = 1, .check_every_byte = every_byte});
        EXPECT_TRUE(retention.apply("run", warn).empty());
        EXPECT_EQ(steps(files).size(), 3u);
        ASSERT_EQ(warnings.size(), 2u);
        EXPECT_NE(warnings[0].find(newest), std::string::npos);
        // With a second one kept that is sound, the third may go.
        Retention two(files, {.keep_newest = 2, .check_every_byte = every_byte});
        EXPECT_EQ(two.apply("run", {}).size(), 1u);
        EXPECT_EQ(steps(files), (std::vector<int64_t>{3, 2}));
    }
}

TEST(Retention, AFaultAtAnyOperationLeavesWhatIsKept) {
    MemoryFiles before;
    save_steps(before, 4);
    for (int64_t k = 0;; ++k) {
        const auto files = before.clone();
        plinth::test::FaultyFiles faulty(*files, {.operation = k, .sticky = true});
        try {
            Retention(faulty, {.keep_newest = 2}).apply("run", {});
        } catch (const Error&) {
        }
        const std::vector<int64_t> left = steps(*files);
        ASSERT_GE(left.size(), 2u) << k;
        EXPECT_EQ(left[0], 4);
        EXPECT_EQ(left[1], 3);
        for (const int64_t step : left)  // what still counts as a checkpoint is whole
            Checkpoint::open(*files, "run/" + folder_name(static_cast<uint64_t>(step), 1));
        remove_unfinished(*files, "run", {});
        for (const Candidate& candidate : list_checkpoints(*files, "run"))
            EXPECT_TRUE(candidate.committed);
        if (!faulty.failed()) break;
    }
}

TEST(Retention, RefusesNegativeNumbers) {
    MemoryFiles files;
    plinth::test::expect_error(
        ErrorKind::config, [&] { Retention(files, {.keep_newest = -1}); }, "-1");
    plinth::test::expect_error(
        ErrorKind::config, [&] { Retention(files, {.keep_every = -2}); }, "-2");
}

}  // namespace
}  // namespace plinth::checkpoints::test
