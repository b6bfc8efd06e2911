// SPDX-License-Identifier: Apache-2.0
// Preparations that end early: failing disks, kills, another job in the same folder.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <utility>

#include "core/io/run_lock.h"
#include "tests/support/expect_error.h"
#include "tests/support/faulty_files.h"
#include "tests/unit/data/prepare_run.h"

namespace plinth::core::data {
namespace {

class PrepareFaultsTest : public PrepareTest {
  protected:
    /// What cannot be read as a lock would be watched for a minute before it is taken over.
    void remove_torn_locks() {
        const std::string partial = folder / "out.partial";
        if (!files.exists(partial)) return;
        for (const std::string& name : files.list(partial)) {
            const std::string path = io::join(partial, name);
            if (name.starts_with(io::run_lock_name) &&
                !io::LockRecord::parse(io::read_all(files, path)))
                files.remove(path);
        }
    }

    int exit_code_with_fault(const PrepareConfig& config, int64_t operation) {
        test::FaultyFiles faulty(files, {.operation = operation, .sticky = true});
        try {
            prepare(config, faulty);
        } catch (const Error& error) {
            return exit_code(error.kind());
        }
        return 0;
    }
};

TEST_F(PrepareFaultsTest, AnyFailedOperationLeavesNoDataSet) {
    write_jsonl("a.jsonl", random_texts(50, 3));
    PrepareConfig bounded = config();
    bounded.threads = 1;
    bounded.held_out = 0.2;
    bounded.shard_tokens = 3000;
    test::FaultyFiles counter(files);
    prepare(bounded, counter);
    const auto expected = contents("out");
    files.remove_all(folder / "out");
    int64_t failures = 0;
    for (int64_t k = 0; k < counter.operations(); ++k) {
        // A process of its own: the lock of one that lives stays where its disk is dead.
        const pid_t child = fork();
        if (child == 0) _exit(exit_code_with_fault(bounded, k));
        int status = 0;
        ASSERT_EQ(waitpid(child, &status, 0), child);
        ASSERT_TRUE(WIFEXITED(status)) << k;
        if (WEXITSTATUS(status) != 0) {
            EXPECT_EQ(WEXITSTATUS(status), exit_code(ErrorKind::io)) << k;
            ++failures;
        }
        // After the rename the set is whole, even if making the rename durable failed.
        if (files.exists(folder / "out")) {
            EXPECT_EQ(contents("out"), expected) << k;
        }
        files.remove_all(folder / "out");
        remove_torn_locks();
    }
    EXPECT_GT(failures, counter.operations() / 2);
    prepare(bounded, files);
    EXPECT_EQ(contents("out"), expected);
    EXPECT_FALSE(files.exists(folder / "out.partial"));
}

TEST_F(PrepareFaultsTest, AKilledPreparationLeavesNothingWhole) {
    write_jsonl("a.jsonl", random_texts(2000, 4));
    for (const std::string phase : {"reading", "writing"}) {
        const pid_t child = fork();
        if (child == 0) {
            prepare(config(), files, [&](const PrepareProgress& progress) {
                if (progress.phase == phase && progress.documents > 0) raise(SIGKILL);
            });
            _exit(0);
        }
        int status = 0;
        ASSERT_EQ(waitpid(child, &status, 0), child);
        ASSERT_TRUE(WIFSIGNALED(status)) << phase;
        EXPECT_FALSE(files.exists(folder / "out"));
        EXPECT_TRUE(files.exists(folder / "out.partial"));
        EXPECT_FALSE(files.exists(folder / "out.partial/data/manifest.json"));
    }
    prepare(config(), files);
    EXPECT_EQ(documents("out").size(), 2000u);
    EXPECT_FALSE(files.exists(folder / "out.partial"));
}

TEST_F(PrepareFaultsTest, ASecondPreparationIntoTheSameFolderIsRefused) {
    write_jsonl("a.jsonl", random_texts(2000, 6));
    prepare(config("alone"), files);
    bool tried = false;
    prepare(config(), files, [&](const PrepareProgress& progress) {
        if (progress.documents == 0 || std::exchange(tried, true)) return;
        test::expect_error(
            ErrorKind::io, [&] { prepare(config(), files); }, "out.partial: another job writes",
            "choose another prepare.output");
    });
    EXPECT_TRUE(tried);
    EXPECT_EQ(documents("out"), documents("alone"));
    EXPECT_FALSE(files.exists(folder / "out.partial"));
}

TEST_F(PrepareFaultsTest, APreparationWhoseLockWasTakenMakesNoDataSet) {
    write_jsonl("a.jsonl", random_texts(200, 7));
    const std::string lock = folder / "out.partial/run.lock";
    test::expect_error(
        ErrorKind::io,
        [&] {
            prepare(config(), files, [&](const PrepareProgress&) {
                if (files.exists(lock)) files.remove(lock);
            });
        },
        "lock was removed", "makes no data set");
    EXPECT_FALSE(files.exists(folder / "out"));
}

}  // namespace
}  // namespace plinth::core::data
