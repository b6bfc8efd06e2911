// SPDX-License-Identifier: Apache-2.0
#include "launch/signal_thread.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <string>
#include <thread>

namespace plinth::launch {
namespace {

std::atomic<int> on_this_thread{0}, elsewhere{0};
std::atomic<pthread_t> this_thread{};

void count(int) {
    ++(pthread_equal(pthread_self(), this_thread) ? on_this_thread : elsewhere);
}

/// Sends signals to the process, each when the one before was handled.
void send(int signal, int times) {
    this_thread = pthread_self();
    on_this_thread = elsewhere = 0;
    for (int sent = 1; sent <= times; ++sent) {
        kill(getpid(), signal);
        while (on_this_thread + elsewhere < sent)
            std::this_thread::yield();
    }
}

class SignalThreadTest : public testing::TestWithParam<int> {
  protected:
    void SetUp() override {
        struct sigaction action = {};
        action.sa_handler = count;
        sigaction(GetParam(), &action, &before_);
    }
    void TearDown() override { sigaction(GetParam(), &before_, nullptr); }

  private:
    struct sigaction before_ = {};
};

TEST_P(SignalThreadTest, HandlersRunOnItAlone) {
    {
        const SignalThread signals;
        send(GetParam(), 100);
        EXPECT_EQ(on_this_thread, 0);
        EXPECT_EQ(elsewhere, 100);
        // A thread that begins later takes none either.
        std::thread([] { send(GetParam(), 100); }).join();
        EXPECT_EQ(on_this_thread, 0);
        EXPECT_EQ(elsewhere, 100);
    }
    // Without it they run where they must not: what is seen above is its doing.
    send(GetParam(), 100);
    EXPECT_EQ(on_this_thread, 100);
}

TEST(SignalThread, AWriteToAClosedPipeEndsTheProcess) {
    const auto write_to_nobody = [] {
        const SignalThread signals;
        int ends[2];
        if (pipe(ends) != 0) _exit(1);
        close(ends[0]);
        _exit(write(ends[1], "x", 1) == 1 ? 2 : 3);
    };
    EXPECT_EXIT(write_to_nobody(), testing::KilledBySignal(SIGPIPE), "");
}

INSTANTIATE_TEST_SUITE_P(Signals, SignalThreadTest,
                         testing::Values(SIGUSR1, SIGTERM, SIGINT, SIGPROF, SIGALRM),
                         [](const auto& test) { return std::to_string(test.param); });

}  // namespace
}  // namespace plinth::launch
