// SPDX-License-Identifier: Apache-2.0
#include "launch/stop_signal.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

namespace plinth::launch {
namespace {

TEST(StopSignal, AskedOnceItStaysAsked) {
    for (int signal : {SIGUSR1, SIGTERM, SIGINT}) {
        const StopSignal stop;
        EXPECT_FALSE(stop.requested());
        kill(getpid(), signal);
        EXPECT_TRUE(stop.requested());
    }
}

TEST(StopSignal, OneThatComesAfterTheRunEndsNothing) {
    { const StopSignal stop; }
    kill(getpid(), SIGUSR1);
    kill(getpid(), SIGTERM);
    EXPECT_EXIT(kill(getpid(), SIGINT), testing::KilledBySignal(SIGINT), "");
}

TEST(StopSignal, TheSecondInterruptEndsTheProcess) {
    const StopSignal stop;
    const auto interrupt_twice = [] {
        kill(getpid(), SIGINT);
        kill(getpid(), SIGINT);
    };
    EXPECT_EXIT(interrupt_twice(), testing::KilledBySignal(SIGINT), "");
}

}  // namespace
}  // namespace plinth::launch
