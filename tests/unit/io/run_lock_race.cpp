// SPDX-License-Identifier: Apache-2.0
// Several takers of one lock at the same time: one gets it.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <barrier>
#include <functional>
#include <thread>

#include "core/io/run_lock.h"
#include "kernels/runtime/error.h"
#include "tests/support/forwarding_files.h"
#include "tests/support/lock_world.h"
#include "tests/support/memory_files.h"
#include "tests/support/temporary_folder.h"

namespace plinth::core::io {
namespace {

using namespace std::chrono_literals;
using test::LockWorld;
using test::MemoryFiles;

void put(FileSystem& files, const std::string& path, const std::string& bytes) {
    files.open_write(path, OpenMode::truncate)->append(std::as_bytes(std::span(bytes)));
}

LockRecord record_of(int64_t pid) {
    return {.holder = LockWorld::process(pid), .token = new_token()};
}

/// Lets something happen once, just before an operation on a name.
class Interrupted final : public test::ForwardingFiles {
  public:
    using ForwardingFiles::ForwardingFiles;
    std::function<void()> before_claim, after_claim, before_rename;

    std::unique_ptr<WritableFile> open_new(const std::string& path) override {
        const bool is_claim = path.find(".next-") != std::string::npos;
        if (is_claim) happen(before_claim);
        auto file = ForwardingFiles::open_new(path);
        if (is_claim) happen(after_claim);
        return file;
    }
    void rename(const std::string& from, const std::string& to) override {
        happen(before_rename);
        ForwardingFiles::rename(from, to);
    }

  private:
    static void happen(std::function<void()>& what) {
        if (const auto now = std::exchange(what, nullptr)) now();
    }
};

/// A mutant: claims have names of the job's own, so that two never collide. What is left is to
/// write a temporary file, to rename it over the lock and to read that again.
class OwnClaims final : public test::ForwardingFiles {
  public:
    using ForwardingFiles::ForwardingFiles;
    std::unique_ptr<WritableFile> open_new(const std::string& path) override {
        return ForwardingFiles::open_new(own(path));
    }
    bool exists(const std::string& path) override { return ForwardingFiles::exists(own(path)); }
    void rename(const std::string& from, const std::string& to) override {
        ForwardingFiles::rename(own(from), to);
    }
    std::vector<std::string> list(const std::string&) override { return {}; }  // others' claims

  private:
    static std::string own(const std::string& path) {
        return path.ends_with(run_lock_name) ? path : path + ".own";
    }
};

/// A mutant: what a reader saw of the lock once it sees again, as from a cache that is never asked.
class Cached final : public test::ForwardingFiles {
  public:
    using ForwardingFiles::ForwardingFiles;
    std::unique_ptr<ReadableFile> open_read(const std::string& path) override {
        if (!path.ends_with(run_lock_name)) return ForwardingFiles::open_read(path);
        if (reads_++ >= 2) return ForwardingFiles::open_read(path);  // its own token, in the end
        if (!seen_) seen_ = ForwardingFiles::open_read(path);
        return std::make_unique<Again>(*seen_);
    }

  private:
    class Again final : public ReadableFile {
      public:
        explicit Again(const ReadableFile& seen) : seen_(seen) {}
        const std::string& path() const override { return seen_.path(); }
        uint64_t size() const override { return seen_.size(); }
        void read_at(uint64_t offset, std::span<std::byte> out) const override {
            seen_.read_at(offset, out);
        }

      private:
        const ReadableFile& seen_;
    };
    std::unique_ptr<ReadableFile> seen_;
    int reads_ = 0;
};

enum class Moment { before_claim, after_claim, before_rename };

/// Two jobs find the lock of a dead one; at that moment of the first one's way the second makes its
/// whole way, on the files that `alter` makes of the common ones. How many hold the lock then, and
/// believe so.
template <class FirstSees = test::ForwardingFiles, class SecondSees = test::ForwardingFiles>
int holders_when_met(Moment moment) {
    MemoryFiles memory;
    memory.make_directories("run");
    put(memory, "run/run.lock", record_of(1).encode());
    LockWorld world;
    world.living = {2, 3};
    FirstSees first_sees(memory);
    Interrupted interrupted(first_sees);
    SecondSees second_sees(memory);
    RunLock first(interrupted, "run", world.options(2)),
        second(second_sees, "run", world.options(3));
    const auto other = [&] { second.try_acquire(); };
    (moment == Moment::before_claim  ? interrupted.before_claim
     : moment == Moment::after_claim ? interrupted.after_claim
                                     : interrupted.before_rename) = other;
    first.try_acquire();
    return int{first.is_held()} + int{second.is_held()};
}

constexpr Moment moments[] = {Moment::before_claim, Moment::after_claim, Moment::before_rename};

TEST(RunLockRace, OneOfTwoTakersGetsItWhereverTheyMeet) {
    for (const Moment moment : moments)
        EXPECT_EQ(holders_when_met(moment), 1) << static_cast<int>(moment);
}

TEST(RunLockRace, MutantWhoseClaimsDoNotCollideLetsTwoIn) {
    EXPECT_EQ((holders_when_met<test::ForwardingFiles, OwnClaims>(Moment::before_rename)), 2);
}

TEST(RunLockRace, MutantThatReadsAnOldLockLetsTwoIn) {
    EXPECT_EQ((holders_when_met<Cached, test::ForwardingFiles>(Moment::before_claim)), 2);
}

/// The holder ends while another, who saw its heartbeat stand still, takes over.
TEST(RunLockRace, AReleaseAndATakeoverExcludeEachOther) {
    for (const Moment moment : moments) {
        MemoryFiles memory;
        memory.make_directories("run");
        Interrupted interrupted(memory);
        LockWorld world;
        RunLock sleeper(memory, "run", world.options(1, "there"));
        RunLock taker(interrupted, "run", world.options(2));
        ASSERT_TRUE(sleeper.try_acquire());
        EXPECT_FALSE(taker.try_acquire());
        world.pass(60s);
        (moment == Moment::before_claim  ? interrupted.before_claim
         : moment == Moment::after_claim ? interrupted.after_claim
                                         : interrupted.before_rename) = [&] { sleeper.release(); };
        if (!taker.try_acquire()) {
            EXPECT_TRUE(taker.try_acquire());
        }
        EXPECT_EQ(taker.loss(), "");
        EXPECT_EQ(memory.list("run"), std::vector<std::string>{"run.lock"});
    }
}

/// Three threads, on the system's own files, until one holds the lock and the others are refused.
int holders_of_race(const std::string& folder, std::chrono::milliseconds standstill) {
    constexpr int takers = 3;
    LockWorld world;
    world.living = {10, 11, 12};
    std::vector<std::unique_ptr<RunLock>> locks;
    for (int taker = 0; taker < takers; ++taker) {
        RunLockOptions options = world.options(10 + taker);
        options.now = std::chrono::steady_clock::now;
        options.patience = 60s;  // nobody is refused
        options.standstill = standstill;
        options.say = {};
        locks.push_back(std::make_unique<RunLock>(posix(), folder, options));
    }
    std::barrier start(takers);
    std::atomic<int> holders{0};
    std::vector<std::thread> threads;
    for (auto& lock : locks)
        threads.emplace_back([&] {
            start.arrive_and_wait();
            const auto end = std::chrono::steady_clock::now() + 30s;
            // Whoever is late looks a few times more.
            for (int late = 0; late < 20 && std::chrono::steady_clock::now() < end;
                 late += holders > 0) {
                if (!lock->try_acquire()) continue;
                ++holders;
                return;
            }
        });
    for (std::thread& thread : threads)
        thread.join();
    for (const auto& lock : locks)
        EXPECT_EQ(lock->is_held() ? lock->loss() : "", "");
    return holders;
}

TEST(RunLockRace, OneOfManyThreadsGetsIt) {
    test::TemporaryFolder folder;
    const std::string path = folder / run_lock_name;
    for (int round = 0; round < 60; ++round) {
        const LockRecord old = record_of(1), rival = record_of(2);
        const int kind = round % 3;
        if (kind > 0) put(posix(), path, old.encode());
        if (kind > 1) put(posix(), path + ".next-" + old.token, rival.encode());
        ASSERT_EQ(holders_of_race(folder.path(), 60s), 1) << "round " << round;
        ASSERT_TRUE(posix().list(folder.path()).empty());
    }
    put(posix(), path, "torn");
    EXPECT_EQ(holders_of_race(folder.path(), 1s), 1);
}

/// A process that takes the lock and dies with it, its exit code not asked for.
class Victim {
  public:
    explicit Victim(const std::string& folder) : pid_(::fork()) {
        CHECK(pid_ >= 0, "no process can be started");
        if (pid_ != 0) {
            siginfo_t info{};
            ::waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOWAIT);
            return;
        }
        RunLockOptions options;
        options.beat_every = 0ms;
        const auto lock = std::make_unique<RunLock>(posix(), folder, options);
        ::_exit(lock->try_acquire() ? 0 : 1);
    }
    int exit_code() {
        int status = -1;
        ::waitpid(std::exchange(pid_, -1), &status, 0);
        return status;
    }

  private:
    pid_t pid_;
};

TEST(RunLockRace, TheLockOfARealDeadProcessIsFreeAtOnce) {
    test::TemporaryFolder folder;
    Victim victim(folder.path());
    EXPECT_TRUE(posix().exists(folder / run_lock_name));
    std::vector<std::string> lines;
    RunLockOptions options;
    options.say = [&](const std::string& line) { lines.push_back(line); };
    RunLock lock(posix(), folder.path(), options);
    EXPECT_TRUE(lock.try_acquire());
    EXPECT_EQ(victim.exit_code(), 0);
    ASSERT_EQ(lines.size(), 1u);
    EXPECT_NE(lines[0].find("which has ended"), std::string::npos) << lines[0];
}

}  // namespace
}  // namespace plinth::core::io
