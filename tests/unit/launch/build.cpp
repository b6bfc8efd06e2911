// SPDX-License-Identifier: Apache-2.0
// What the configuration promises of the objects that are built from it.
#include "launch/build.h"

#include <gtest/gtest.h>

#include "launch/config/load.h"

namespace plinth::launch {
namespace {

core::optim::Schedule schedule_of(const std::string& optimizer, int64_t steps) {
    const auto config = parse_config<RunConfig>(
        fmt::format("data:\n  sources: [{{path: data/text}}]\ntrain:\n  steps: {}\noptimizer:\n"
                    "  lr: 1.0\n  min_lr: 0.25\n  warmup_steps: 2\n  schedule: {}\n",
                    steps, optimizer),
        "run.yaml");
    return learning_rate_schedule(config.optimizer, steps);
}

TEST(LearningRateSchedule, WsdDecaysOverATenthOfTheRunUnlessToldOtherwise) {
    const auto rates = schedule_of("wsd", 50);
    EXPECT_EQ(rates.rate(44), 1.0);
    EXPECT_EQ(rates.rate(45), 1.0);
    EXPECT_NEAR(rates.rate(46), 1.0 - 0.75 / 5, 1e-15);
    EXPECT_NEAR(rates.rate(49), 1.0 - 0.75 * 4 / 5, 1e-15);
    EXPECT_EQ(rates.rate(50), 0.25);

    const auto told = schedule_of("wsd\n  decay_steps: 25", 50);
    EXPECT_EQ(told.rate(25), 1.0);
    EXPECT_NEAR(told.rate(30), 1.0 - 0.75 * 5 / 25, 1e-15);
}

TEST(LearningRateSchedule, WsdOfAShortRunStillHasOneStepOfDecay) {
    EXPECT_EQ(schedule_of("wsd", 5).decay_steps, 1);
}

TEST(LearningRateSchedule, OtherSchedulesDecayFromTheWarmUpToTheEnd) {
    EXPECT_EQ(schedule_of("linear", 50).decay_steps, 0);
    EXPECT_NEAR(schedule_of("linear", 50).rate(26), 1.0 - 0.75 / 2, 1e-15);
}

}  // namespace
}  // namespace plinth::launch
