// SPDX-License-Identifier: Apache-2.0
#include "core/optim/schedule.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

namespace plinth::test {
namespace {

using core::optim::Schedule;

Schedule schedule(Schedule::Kind kind, int64_t decay_steps = 0) {
    return {.kind = kind,
            .peak = 1e-3,
            .minimum = 1e-4,
            .warmup_steps = 10,
            .decay_steps = decay_steps,
            .total_steps = 110};
}

TEST(Schedule, WarmUpEndsAtThePeak) {
    for (const auto kind : {Schedule::Kind::constant, Schedule::Kind::cosine,
                            Schedule::Kind::linear, Schedule::Kind::wsd}) {
        const Schedule s = schedule(kind, 20);
        EXPECT_DOUBLE_EQ(s.rate(0), 1e-4);
        EXPECT_DOUBLE_EQ(s.rate(4), 5e-4);
        EXPECT_DOUBLE_EQ(s.rate(9), 1e-3);
        EXPECT_DOUBLE_EQ(s.rate(10), 1e-3);
    }
}

TEST(Schedule, Constant) {
    EXPECT_EQ(schedule(Schedule::Kind::constant).rate(1'000'000), 1e-3);
}

TEST(Schedule, Cosine) {
    const Schedule s = schedule(Schedule::Kind::cosine);
    for (const int64_t step : {10, 11, 35, 60, 85, 109}) {
        const double done = static_cast<double>(step - 10) / 100.0;
        const double expected = 1e-4 + 9e-4 * (1.0 + std::cos(std::numbers::pi * done)) / 2.0;
        EXPECT_NEAR(s.rate(step), expected, 1e-18) << step;
    }
    EXPECT_NEAR(s.rate(60), 5.5e-4, 1e-18) << "half way";
    EXPECT_NEAR(s.rate(110), 1e-4, 1e-18);
    EXPECT_NEAR(s.rate(5000), 1e-4, 1e-18) << "past the end it stays";
    EXPECT_NEAR(schedule(Schedule::Kind::cosine, 50).rate(60), 1e-4, 1e-18)
        << "decay_steps count from the end of the warm-up";
}

TEST(Schedule, Linear) {
    const Schedule s = schedule(Schedule::Kind::linear);
    EXPECT_NEAR(s.rate(35), 1e-3 - 0.25 * 9e-4, 1e-18);
    EXPECT_NEAR(s.rate(110), 1e-4, 1e-18);
    EXPECT_NEAR(s.rate(111), 1e-4, 1e-18);
}

TEST(Schedule, WarmUpStableDecay) {
    const Schedule s = schedule(Schedule::Kind::wsd, 20);
    EXPECT_EQ(s.rate(50), 1e-3);
    EXPECT_EQ(s.rate(90), 1e-3);
    EXPECT_NEAR(s.rate(95), 1e-3 - 0.25 * 9e-4, 1e-18);
    EXPECT_NEAR(s.rate(110), 1e-4, 1e-18);
    EXPECT_NEAR(s.rate(200), 1e-4, 1e-18);
    EXPECT_NEAR(schedule(Schedule::Kind::wsd, 1000).rate(60), 5.5e-4, 1e-18)
        << "a decay longer than the run begins after the warm-up";
}

TEST(Schedule, WithoutWarmUpOrRest) {
    Schedule s = schedule(Schedule::Kind::cosine);
    s.warmup_steps = 0;
    EXPECT_EQ(s.rate(0), 1e-3);
    s.warmup_steps = s.total_steps = 5;
    EXPECT_NEAR(s.rate(5), 1e-4, 1e-18) << "nothing is left to decay over";
}

}  // namespace
}  // namespace plinth::test
