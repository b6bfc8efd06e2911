// SPDX-License-Identifier: Apache-2.0
#include "launch/folder_locks.h"

#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>

#include "tests/support/expect_error.h"
#include "tests/support/lock_world.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/thread_ranks.h"

namespace plinth::launch {
namespace {

using test::expect_error;

class FolderLocksTest : public ::testing::Test, protected test::LockWorld {
  protected:
    std::vector<LockedFolder> folders() const {
        return {{folder / "run", "run.folder"}, {folder / "run/checkpoints", "checkpoint.folder"}};
    }
    static bool is_locked(const std::string& path) {
        return core::io::posix().exists(core::io::join(path, core::io::run_lock_name));
    }

    test::TemporaryFolder folder;
};

TEST_F(FolderLocksTest, LocksWhatItMakesUntilItEnds) {
    core::SelfRanks ranks;
    {
        FolderLocks locks(core::io::posix(), ranks);
        locks.acquire(folders(), options(1));
        EXPECT_TRUE(is_locked(folder / "run"));
        EXPECT_TRUE(is_locked(folder / "run/checkpoints"));
        locks.require_held();
        locks.check_here();
    }
    EXPECT_FALSE(is_locked(folder / "run"));
    EXPECT_FALSE(is_locked(folder / "run/checkpoints"));
}

TEST_F(FolderLocksTest, RefusesEachFolderByItsKey) {
    core::SelfRanks ranks;
    FolderLocks locks(core::io::posix(), ranks);
    locks.acquire(folders(), options(1));
    core::io::RunLockOptions impatient = options(2);
    impatient.patience = std::chrono::seconds(0);
    for (const LockedFolder& taken : folders()) {
        FolderLocks others(core::io::posix(), ranks);
        const LockedFolder own{folder / "other", "run.folder"};
        expect_error(
            ErrorKind::io,
            [&] {
                others.acquire({own, taken}, impatient);
            },
            taken.path, "process 1 on here", "another " + taken.key);
    }
    EXPECT_FALSE(is_locked(folder / "other")) << "what was held is released";
    locks.check_here();
}

TEST_F(FolderLocksTest, OneFolderUnderTwoNamesIsLockedOnce) {
    core::SelfRanks ranks;
    FolderLocks locks(core::io::posix(), ranks);
    std::filesystem::create_directory_symlink(folder.path(), folder / "link");
    locks.acquire({{folder.path(), "run.folder"}, {folder / "link", "checkpoint.folder"}},
                  options(1));
    locks.require_held();
}

TEST_F(FolderLocksTest, AllRanksAreRefusedAndLoseTogether) {
    core::SelfRanks alone;
    const auto locks = std::make_unique<FolderLocks>(core::io::posix(), alone);
    locks->acquire(folders(), options(1));
    core::io::RunLockOptions impatient = options(2);
    impatient.patience = std::chrono::seconds(0);
    std::atomic<int> refused{0}, lost{0};
    test::ThreadRanks::run(3, [&](core::Ranks& ranks) {
        FolderLocks others(core::io::posix(), ranks);
        expect_error(
            ErrorKind::io, [&] { others.acquire(folders(), impatient); }, "process 1 on here");
        ++refused;
        others.acquire({{folder / "other", "run.folder"}}, impatient);
        others.require_held();
        ranks.barrier();
        if (ranks.rank() == 0)
            core::io::write_atomically(
                core::io::posix(), folder / "other/run.lock",
                core::io::read_all(core::io::posix(), folder / "run/run.lock"));
        ranks.barrier();
        expect_error(
            ErrorKind::io, [&] { others.require_held(); }, "process 1 on here has taken over");
        ++lost;
    });
    EXPECT_EQ(refused, 3);
    EXPECT_EQ(lost, 3);
    locks->check_here();
}

/// One rank waits for a holder to go; the others take part in its looks all the time.
TEST_F(FolderLocksTest, AllRanksWaitTogether) {
    core::io::posix().make_directories(folder / "run");
    const core::io::LockRecord left{.holder = process(1, "there"), .token = core::io::new_token()};
    core::io::write_atomically(core::io::posix(), folder / "run/run.lock", left.encode());
    test::ThreadRanks::run(2, [&](core::Ranks& ranks) {
        core::io::RunLockOptions waiting = options(2);
        waiting.now = std::chrono::steady_clock::now;
        waiting.standstill = std::chrono::milliseconds(500);
        FolderLocks locks(core::io::posix(), ranks);
        locks.acquire(folders(), waiting);
        locks.require_held();
    });
}

}  // namespace
}  // namespace plinth::launch
