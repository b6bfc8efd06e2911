// SPDX-License-Identifier: Apache-2.0
// kill -9 at random times of a loop of saves with retention, on the real disk.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <random>

#include "checkpoints/reader.h"
#include "checkpoints/restore.h"
#include "checkpoints/writer.h"
#include "tests/support/temporary_folder.h"
#include "tests/unit/checkpoints/state.h"

namespace plinth::checkpoints::test {
namespace {

constexpr int64_t kept = 2;

/// The child: saves step after step and tells each committed one through the pipe.
[[noreturn]] void save_until_killed(const std::string& root, int64_t step, int pipe_end) {
    try {
        core::SelfRanks ranks;
        WriterOptions options{.threads = 1};
        options.retention.keep_newest = kept;
        Writer writer(core::io::posix(), ranks, options);
        for (;; ++step) {
            const State state = replicated(tiny_table(), static_cast<uint64_t>(step));
            const SaveRequest wanted = request(state, step, root);
            SaveOutcome outcome;
            if (step % 2) {
                writer.begin(wanted);
                outcome = writer.finish();
            } else {
                outcome = writer.save(wanted);
            }
            if (!outcome.committed) _exit(3);
            if (write(pipe_end, &step, sizeof step) != sizeof step) _exit(4);
        }
    } catch (...) {
        _exit(5);
    }
}

struct Killed {
    int64_t acknowledged = 0;
    int status = 0;
};

/// Kills the child after that time, or that long after its first commit: however slow the disk is,
/// some rounds make progress.
Killed run_and_kill(const std::string& root, int64_t next, unsigned microseconds,
                    bool after_commit) {
    int ends[2];
    CHECK(pipe(ends) == 0, "pipe");
    const pid_t child = fork();
    CHECK(child >= 0, "fork");
    if (child == 0) {
        close(ends[0]);
        save_until_killed(root, next, ends[1]);
    }
    close(ends[1]);
    Killed result;
    int64_t first = 0;
    if (after_commit && read(ends[0], &first, sizeof first) == sizeof first)
        result.acknowledged = first;
    usleep(microseconds);
    kill(child, SIGKILL);
    waitpid(child, &result.status, 0);
    for (int64_t step; read(ends[0], &step, sizeof step) == sizeof step;)
        result.acknowledged = step;
    close(ends[0]);
    return result;
}

TEST(Kill, NoCommittedStepIsLost) {
    plinth::test::TemporaryFolder folder;
    const std::string root = folder / "run";
    core::SelfRanks ranks;
    std::mt19937 random(20240501);
    int64_t last = 0;
    for (int round = 0; round < 50; ++round) {
        const Killed killed = run_and_kill(root, last + 1, random() % 40000, round % 2 == 0);
        ASSERT_TRUE(WIFSIGNALED(killed.status)) << WEXITSTATUS(killed.status);
        last = std::max(last, killed.acknowledged);
        State state = replicated(tiny_table(), 1 << 20);
        const auto restored =
            restore_newest(core::io::posix(), ranks, root, state.tensors,
                           [](const std::string& line) { ADD_FAILURE() << line; });
        if (!restored) {
            ASSERT_EQ(last, 0);
            continue;
        }
        ASSERT_GE(restored->manifest.step, last);
        last = restored->manifest.step;
        ASSERT_TRUE(state == replicated(tiny_table(), static_cast<uint64_t>(last)));
        // Retention never went below what it keeps, and leftovers of earlier kills are cleared.
        int64_t committed = 0, unfinished = 0;
        for (const Candidate& candidate : list_checkpoints(core::io::posix(), root))
            ++(candidate.committed ? committed : unfinished);
        ASSERT_GE(committed, std::min(kept, last));
        ASSERT_LE(committed, kept + 1);
        ASSERT_LE(unfinished, 2);
    }
    EXPECT_GT(last, 10);
}

}  // namespace
}  // namespace plinth::checkpoints::test
