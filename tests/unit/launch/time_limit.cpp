// SPDX-License-Identifier: Apache-2.0
#include "launch/time_limit.h"

#include <gtest/gtest.h>

namespace plinth::launch {
namespace {

TEST(TimeLimit, LeavesRoomForWhatComesBeforeTheLastCheckpoint) {
    TimeLimit time{.limit = 100};
    const auto expect_near_from = [&](double seconds, bool evaluates, bool samples) {
        EXPECT_FALSE(time.is_near(seconds - 0.5, evaluates, samples)) << seconds;
        EXPECT_TRUE(time.is_near(seconds + 0.5, evaluates, samples)) << seconds;
    };
    expect_near_from(100, true, true);
    time.longest_step = 3;
    expect_near_from(94, true, true);
    time.longest_evaluation = 20;
    expect_near_from(74, true, false);
    expect_near_from(94, false, true);
    time.longest_sample = 4;
    expect_near_from(90, false, true);
    expect_near_from(70, true, true);
    time.longest_save = 10;
    expect_near_from(74, false, false);
    expect_near_from(50, true, true);
}

TEST(TimeLimit, ZeroIsNone) {
    EXPECT_FALSE((TimeLimit{.longest_step = 5}.is_near(1e9, true, true)));
}

}  // namespace
}  // namespace plinth::launch
