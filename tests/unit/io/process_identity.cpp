// SPDX-License-Identifier: Apache-2.0
#include "core/io/process_identity.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kernels/runtime/error.h"

namespace plinth::core::io {
namespace {

/// A child that waits for its end; ended and asked for its exit code with the object.
class Child {
  public:
    Child() : pid_(::fork()) {
        CHECK(pid_ >= 0, "no process can be started");  // -1 would mean every process, below
        if (pid_ != 0) return;
        for (;;)
            ::pause();
    }
    ~Child() {
        ::kill(pid_, SIGKILL);
        ::waitpid(pid_, nullptr, 0);
    }
    /// Until the system reports that state of it; it is not reaped.
    void signal_and_wait(int signal, int options) {
        ::kill(pid_, signal);
        siginfo_t info{};
        ::waitid(P_PID, static_cast<id_t>(pid_), &info, options | WNOWAIT);
    }
    int64_t pid() const { return pid_; }

  private:
    pid_t pid_;
};

/// The identity of a process with that number and with this process's time of start.
ProcessIdentity numbered(int64_t pid) {
    ProcessIdentity process = this_process();
    process.pid = pid;
    return process;
}

TEST(ProcessIdentity, NamesThisProcess) {
    const ProcessIdentity self = this_process();
    EXPECT_EQ(self, this_process());
    EXPECT_EQ(self.pid, ::getpid());
    EXPECT_FALSE(self.host.empty());
    EXPECT_EQ(self.boot.size(), 36u);
    EXPECT_EQ(self.pid_namespace.substr(0, 5), "pid:[");
    EXPECT_GT(self.start_ticks, 0);
}

TEST(ProcessIdentity, OneThatRunsOrIsStoppedIsAlive) {
    EXPECT_EQ(life_of(this_process()), Life::alive);
    Child child;
    ProcessIdentity process = numbered(child.pid());
    for (int64_t ticks = process.start_ticks; life_of(process) == Life::gone; ++ticks) {
        ASSERT_LT(ticks, this_process().start_ticks + 100'000'000);
        process.start_ticks = ticks;  // the child's, which is a little later than ours
    }
    EXPECT_EQ(life_of(process), Life::alive);
    child.signal_and_wait(SIGSTOP, WSTOPPED);
    EXPECT_EQ(life_of(process), Life::alive);
    child.signal_and_wait(SIGKILL, WEXITED);
    EXPECT_EQ(life_of(process), Life::gone) << "a zombie computes nothing";
}

TEST(ProcessIdentity, ALaterOneOfTheSameNumberIsAnother) {
    ProcessIdentity earlier = this_process();
    --earlier.start_ticks;
    EXPECT_EQ(life_of(earlier), Life::gone);
}

TEST(ProcessIdentity, ANumberThatNobodyHasIsGone) {
    int64_t pid = 0;
    {
        Child child;
        pid = child.pid();
    }
    EXPECT_EQ(life_of(numbered(pid)), Life::gone);
    EXPECT_EQ(life_of(numbered(0)), Life::unknown);
    EXPECT_EQ(life_of(numbered(-1)), Life::unknown);
}

TEST(ProcessIdentity, OnlyTheSameHostBootAndNamespaceIsInSight) {
    const ProcessIdentity here = this_process();
    EXPECT_EQ(why_out_of_sight(here, here), "");
    ProcessIdentity there = here;
    there.host = "elsewhere";
    EXPECT_NE(why_out_of_sight(there, here), "");
    there = here;
    there.boot = "another";
    EXPECT_NE(why_out_of_sight(there, here), "");
    there = here;
    there.pid_namespace = "pid:[1]";
    EXPECT_NE(why_out_of_sight(there, here), "");
    ProcessIdentity silent = here;
    silent.boot.clear();
    EXPECT_NE(why_out_of_sight(silent, silent), "") << "two that do not say are not the same";
}

}  // namespace
}  // namespace plinth::core::io
