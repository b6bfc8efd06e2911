// SPDX-License-Identifier: Apache-2.0
// Who gets the lock of a folder and who does not, by a clock and processes that the tests make up.
#include "core/io/run_lock.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <set>

#include "tests/support/expect_error.h"
#include "tests/support/faulty_files.h"
#include "tests/support/lock_world.h"
#include "tests/support/memory_files.h"
#include "tests/support/temporary_folder.h"

namespace plinth::core::io {
namespace {

using namespace std::chrono_literals;
using test::expect_error;
using test::MemoryFiles;

class RunLockTest : public ::testing::Test, protected test::LockWorld {
  protected:
    RunLockTest() { files.make_directories("run"); }

    std::unique_ptr<RunLock> lock(int64_t pid, const std::string& host = "here") {
        return std::make_unique<RunLock>(files, "run", options(pid, host));
    }
    /// A job that ended without a word.
    void leave_lock(const ProcessIdentity& holder) {
        put(LockRecord{.holder = holder, .token = new_token()}.encode());
    }
    void put(const std::string& bytes, const std::string& path = "run/run.lock") {
        const auto file = files.open_write(path, OpenMode::truncate);
        file->append(std::as_bytes(std::span(bytes)));
    }
    /// Looks until it is decided; the clock goes on by half a second a look.
    bool acquire(RunLock& lock) {
        for (int looks = 0; looks < 200; ++looks) {
            if (lock.try_acquire()) return true;
            pass(500ms);
        }
        return false;
    }
    std::set<std::string> names() {
        const auto list = files.list("run");
        return {list.begin(), list.end()};
    }

    MemoryFiles files;
};

TEST_F(RunLockTest, IsHeldByOneAndFreeAfterItsRelease) {
    const auto first = lock(1), second = lock(2);
    EXPECT_TRUE(first->try_acquire());
    EXPECT_EQ(first->loss(), "");
    expect_error(
        ErrorKind::io, [&] { acquire(*second); }, "run: another job writes into this folder",
        "process 1 on here", "stop that job, or choose another run.folder");
    EXPECT_EQ(first->loss(), "");
    first->release();
    EXPECT_TRUE(names().empty());
    EXPECT_TRUE(second->try_acquire());
    EXPECT_TRUE(lines.empty());
}

TEST_F(RunLockTest, IsReleasedWithTheObject) {
    EXPECT_TRUE(lock(1)->try_acquire());
    EXPECT_TRUE(names().empty());
}

TEST_F(RunLockTest, ADeadHolderOfThisMachineIsReplacedAtOnce) {
    leave_lock(process(1));
    living.erase(1);
    const auto second = lock(2);
    EXPECT_TRUE(second->try_acquire());
    EXPECT_EQ(second->loss(), "");
    ASSERT_EQ(lines.size(), 1u);
    EXPECT_EQ(lines[0], "run/run.lock: left by process 1 on here, which has ended: taken over");
    EXPECT_EQ(names(), std::set<std::string>{"run.lock"});
}

TEST_F(RunLockTest, AHolderThatIsJustDyingIsWaitedFor) {
    leave_lock(process(1));
    const auto second = lock(2);
    EXPECT_FALSE(second->try_acquire());
    pass(1900ms);
    EXPECT_FALSE(second->try_acquire());
    living.erase(1);
    EXPECT_TRUE(second->try_acquire());
}

TEST_F(RunLockTest, AHolderOutOfSightWhoseHeartbeatMovesIsLeftAlone) {
    const auto first = lock(1, "there"), second = lock(2);
    living.erase(1);  // a number that means nothing here
    ASSERT_TRUE(first->try_acquire());
    for (int look = 0; look < 118; ++look) {
        EXPECT_FALSE(second->try_acquire());
        pass(500ms);
    }
    first->beat();
    expect_error(
        ErrorKind::io, [&] { second->try_acquire(); }, "run: another job", "process 1 on there",
        "its heartbeat moves", "run.folder");
    EXPECT_EQ(first->loss(), "");
    ASSERT_EQ(lines.size(), 1u);
    for (const char* part : {"process 1 on there", "it is on another host", "watched for 60 s"})
        EXPECT_NE(lines[0].find(part), std::string::npos) << lines[0];
}

TEST_F(RunLockTest, AHolderOutOfSightWhoseHeartbeatStandsStillIsReplaced) {
    ProcessIdentity rebooted = process(1), contained = process(1), hidden = process(3);
    rebooted.boot = "another";
    contained.pid_namespace = "pid:[2]";
    invisible.insert(3);
    for (const ProcessIdentity& holder : {process(1, "there"), rebooted, contained, hidden}) {
        lines.clear();
        leave_lock(holder);
        const auto taker = lock(2);
        EXPECT_FALSE(taker->try_acquire());
        pass(59'999ms);
        EXPECT_FALSE(taker->try_acquire());
        pass(1ms);
        EXPECT_TRUE(taker->try_acquire());
        ASSERT_EQ(lines.size(), 2u);
        EXPECT_NE(lines[1].find("whose heartbeat stood still for 60 s: taken over"),
                  std::string::npos)
            << lines[1];
    }
}

TEST_F(RunLockTest, ANewHolderBeginsTheWatchAgain) {
    leave_lock(process(1, "there"));
    const auto taker = lock(2);
    EXPECT_FALSE(taker->try_acquire());
    pass(40s);
    leave_lock(process(3, "elsewhere"));
    EXPECT_FALSE(taker->try_acquire());
    pass(40s);
    EXPECT_FALSE(taker->try_acquire());
    pass(20s);
    EXPECT_TRUE(taker->try_acquire());
}

TEST_F(RunLockTest, AFileThatIsNoLockIsReplacedWhenItStandsStill) {
    const std::string whole = LockRecord{.holder = process(1), .token = new_token()}.encode();
    for (const std::string& bytes :
         {std::string(), whole.substr(0, whole.size() / 2), std::string(whole.size(), '\0')}) {
        lines.clear();
        put("something");
        const auto taker = lock(2);
        EXPECT_FALSE(taker->try_acquire());
        pass(59s);
        put(bytes);
        EXPECT_FALSE(taker->try_acquire());
        pass(59s);
        EXPECT_FALSE(taker->try_acquire());
        pass(1s);
        EXPECT_TRUE(taker->try_acquire());
        ASSERT_EQ(lines.size(), 2u);
        EXPECT_NE(lines[0].find("cannot be read as a lock"), std::string::npos) << lines[0];
        EXPECT_NE(lines[1].find("taken over"), std::string::npos) << lines[1];
        EXPECT_EQ(names(), std::set<std::string>{"run.lock"});
    }
}

TEST_F(RunLockTest, OneThatIsBeingWrittenIsWaitedForWithoutAWord) {
    put("");
    const auto second = lock(2);
    EXPECT_FALSE(second->try_acquire());
    leave_lock(process(1));
    expect_error(
        ErrorKind::io, [&] { acquire(*second); }, "process 1 on here");
    EXPECT_TRUE(lines.empty());
}

TEST_F(RunLockTest, OneThatStoodStillAndWakesLearnsItAndDisturbsNobody) {
    const auto sleeper = lock(1, "there"), taker = lock(2);
    ASSERT_TRUE(sleeper->try_acquire());
    EXPECT_TRUE(acquire(*taker));
    const std::string bytes = files.bytes("run/run.lock");
    const std::string loss = sleeper->loss();
    EXPECT_NE(loss.find("run/run.lock: process 2 on here has taken over this job's lock"),
              std::string::npos)
        << loss;
    sleeper->beat();
    EXPECT_EQ(files.bytes("run/run.lock"), bytes);
    sleeper->release();
    EXPECT_EQ(files.bytes("run/run.lock"), bytes);
    EXPECT_EQ(taker->loss(), "");
    EXPECT_EQ(names(), std::set<std::string>{"run.lock"});
}

TEST_F(RunLockTest, ALockThatWasRemovedOrOverwrittenIsLost) {
    const auto first = lock(1);
    ASSERT_TRUE(first->try_acquire());
    const std::string bytes = files.bytes("run/run.lock");
    put("mine now");
    EXPECT_NE(first->loss().find("another program has overwritten"), std::string::npos);
    put(bytes);
    EXPECT_EQ(first->loss(), "");
    files.remove("run/run.lock");
    EXPECT_NE(first->loss().find("was removed"), std::string::npos);
}

TEST_F(RunLockTest, ATakerThatDiedInTheMiddleIsReplacedToo) {
    for (const bool garbled : {false, true}) {
        lines.clear();
        const LockRecord old{.holder = process(1), .token = new_token()};
        put(old.encode());
        living = {2};
        const LockRecord rival{.holder = process(3), .token = new_token()};
        put(garbled ? "" : rival.encode(), "run/run.lock.next-" + old.token);
        const auto taker = lock(2);
        EXPECT_EQ(taker->try_acquire(), !garbled);
        if (garbled) {
            EXPECT_TRUE(acquire(*taker));
        }
        EXPECT_EQ(taker->loss(), "");
        EXPECT_EQ(names(), std::set<std::string>{"run.lock"});
    }
}

TEST_F(RunLockTest, ATakerAtWorkIsWaitedForAndThenNamed) {
    const LockRecord old{.holder = process(1), .token = new_token()};
    put(old.encode());
    living = {2, 3};
    const LockRecord rival{.holder = process(3), .token = new_token()};
    put(rival.encode(), "run/run.lock.next-" + old.token);
    const auto taker = lock(2);
    EXPECT_FALSE(taker->try_acquire());
    expect_error(
        ErrorKind::io, [&] { acquire(*taker); }, "process 3 on here");
}

/// What a job does with its lock, the disk failing at the k-th operation that changes it.
void live(FileSystem& files, const RunLockOptions& options) {
    RunLock lock(files, "run", options);
    if (!lock.try_acquire()) return;
    lock.beat();
    lock.release();
}

/// kill -9 (no later operation happens) or one error at any operation: the next start gets in, at
/// once or after a file without content has stood still.
TEST_F(RunLockTest, AfterAKillOrAnErrorAnywhereTheNextStartGetsIn) {
    for (const bool killed : {true, false})
        for (const bool takes_over : {true, false}) {
            bool faulted = true;
            for (int64_t operation = 0; faulted; ++operation) {
                files.remove_all("run");
                files.make_directories("run");
                living = {2, 3};
                if (takes_over) leave_lock(process(1));
                test::FaultyFiles faulty(files, {.operation = operation,
                                                 .reason = EIO,
                                                 .sticky = killed,
                                                 .short_write = true,
                                                 .writes_only = true});
                try {
                    live(faulty, options(2));
                } catch (const Error& error) {
                    EXPECT_EQ(error.kind(), ErrorKind::io);
                }
                faulted = faulty.failed();
                ASSERT_LT(operation, 100);
                living = {3};
                const auto next = lock(3);
                EXPECT_TRUE(acquire(*next)) << operation;
                EXPECT_EQ(next->loss(), "");
                EXPECT_EQ(names(), std::set<std::string>{"run.lock"});
            }
        }
}

TEST(RunLock, ItsHeartbeatMovesByItselfUntilTheRelease) {
    test::TemporaryFolder folder;
    RunLockOptions options;
    options.beat_every = 5ms;
    RunLock lock(posix(), folder.path(), options);
    ASSERT_TRUE(lock.try_acquire());
    uint64_t beats = 0;
    for (int look = 0; look < 2000 && beats < 3; ++look) {
        std::this_thread::sleep_for(5ms);
        const auto record = LockRecord::parse(read_all(posix(), lock.path()));
        ASSERT_TRUE(record);
        EXPECT_EQ(record->token, lock.token());
        beats = record->beats;
    }
    EXPECT_GE(beats, 3u);
    lock.release();
    EXPECT_FALSE(posix().exists(lock.path()));
}

}  // namespace
}  // namespace plinth::core::io
