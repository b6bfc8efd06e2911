// SPDX-License-Identifier: Apache-2.0
#include "parallel/pipeline_parallel/schedule.h"

#include <gtest/gtest.h>

#include "tests/support/expect_error.h"

namespace plinth::test {
namespace {

using parallel::Compute;
using parallel::make_schedule;
using parallel::Pass;
using parallel::Schedule;
using parallel::ScheduleConfig;
using parallel::ScheduleKind;

/// The computations of a stage as in the papers' figures: F, B, I (input half), W and the
/// micro-batch, with a tick for each chunk above the first: "F0 F0' B0' B0".
std::string computations(const Schedule& schedule, size_t stage) {
    constexpr std::string_view letters = "FBIW";
    std::string text;
    for (const auto& action : schedule.actions[stage])
        if (const auto* compute = std::get_if<Compute>(&action))
            text += fmt::format("{}{}{}{}", text.empty() ? "" : " ",
                                letters[static_cast<size_t>(compute->pass)], compute->micro_batch,
                                std::string(static_cast<size_t>(compute->chunk), '\''));
    return text;
}

std::vector<std::string> lines(const Schedule& schedule, size_t stage) {
    std::vector<std::string> text;
    for (const auto& action : schedule.actions[stage])
        text.push_back(describe(action));
    return text;
}

TEST(Schedule, GPipeRunsAllForwardPassesFirst) {
    const auto schedule =
        make_schedule({.kind = ScheduleKind::gpipe, .stages = 2, .micro_batches = 3});
    EXPECT_EQ(computations(schedule, 0), "F0 F1 F2 B0 B1 B2");
    EXPECT_EQ(computations(schedule, 1), "F0 F1 F2 B0 B1 B2");
}

TEST(Schedule, OneForwardOneBackwardAsPublished) {
    const auto schedule =
        make_schedule({.kind = ScheduleKind::one_f_one_b, .stages = 4, .micro_batches = 8});
    EXPECT_EQ(computations(schedule, 0), "F0 F1 F2 F3 B0 F4 B1 F5 B2 F6 B3 F7 B4 B5 B6 B7");
    EXPECT_EQ(computations(schedule, 2), "F0 F1 B0 F2 B1 F3 B2 F4 B3 F5 B4 F6 B5 F7 B6 B7");
    EXPECT_EQ(computations(schedule, 3), "F0 B0 F1 B1 F2 B2 F3 B3 F4 B4 F5 B5 F6 B6 F7 B7");
}

TEST(Schedule, InterleavedAsPublished) {
    const ScheduleConfig config{
        .kind = ScheduleKind::interleaved, .stages = 4, .micro_batches = 8, .chunks = 2};
    const auto schedule = make_schedule(config);
    EXPECT_EQ(computations(schedule, 0),
              "F0 F1 F2 F3 F0' F1' F2' F3' F4 F5 F6 B0' F7 B1' F4' B2' F5' B3' F6' B0 F7' B1 B2 "
              "B3 B4' B5' B6' B7' B4 B5 B6 B7");
    EXPECT_EQ(computations(schedule, 3),
              "F0 F1 F2 F3 F0' B0' F1' B1' F2' B2' F3' B3' F4 B0 F5 B1 F6 B2 F7 B3 F4' B4' F5' "
              "B5' F6' B6' F7' B7' B4 B5 B6 B7");
}

TEST(Schedule, InterleavedTakesAnyNumberOfMicroBatches) {
    const auto schedule = make_schedule(
        {.kind = ScheduleKind::interleaved, .stages = 2, .micro_batches = 5, .chunks = 2});
    EXPECT_EQ(computations(schedule, 1),
              "F0 F1 F2 F0' B0' F1' B1' F2' B2' F3 B0 F4 B1 F3' B2 F4' B3' B4' B3 B4");
    const auto one_chunk = make_schedule(
        {.kind = ScheduleKind::interleaved, .stages = 4, .micro_batches = 8, .chunks = 1});
    EXPECT_EQ(one_chunk.actions,
              make_schedule({.kind = ScheduleKind::one_f_one_b, .stages = 4, .micro_batches = 8})
                  .actions);
}

TEST(Schedule, ZeroBubblePutsWeightHalvesOffByTheStage) {
    const auto schedule =
        make_schedule({.kind = ScheduleKind::zero_bubble_h1, .stages = 3, .micro_batches = 5});
    EXPECT_EQ(computations(schedule, 0), "F0 F1 F2 I0 W0 F3 I1 W1 F4 I2 W2 I3 W3 I4 W4");
    EXPECT_EQ(computations(schedule, 1), "F0 F1 I0 F2 I1 W0 F3 I2 W1 F4 I3 W2 I4 W3 W4");
    EXPECT_EQ(computations(schedule, 2), "F0 I0 F1 I1 F2 I2 W0 F3 I3 W1 F4 I4 W2 W3 W4");
}

TEST(Schedule, MessagesFollowTheirTensorsAndMeetInOneExchange) {
    const auto schedule =
        make_schedule({.kind = ScheduleKind::one_f_one_b, .stages = 2, .micro_batches = 3});
    const std::vector<std::string> first = {
        "forward of micro-batch 0, chunk 0",
        "send of activation 0, chunk 0, to stage 1",
        "forward of micro-batch 1, chunk 0",
        "send of activation 1, chunk 0, to stage 1 with receive of gradient 0, chunk 0, from stage "
        "1",
        "backward of micro-batch 0, chunk 0",
        "forward of micro-batch 2, chunk 0",
        "send of activation 2, chunk 0, to stage 1 with receive of gradient 1, chunk 0, from stage "
        "1",
        "backward of micro-batch 1, chunk 0",
        "receive of gradient 2, chunk 0, from stage 1",
        "backward of micro-batch 2, chunk 0",
    };
    const std::vector<std::string> second = {
        "receive of activation 0, chunk 0, from stage 0",
        "forward of micro-batch 0, chunk 0",
        "receive of activation 1, chunk 0, from stage 0",
        "backward of micro-batch 0, chunk 0",
        "send of gradient 0, chunk 0, to stage 0",
        "forward of micro-batch 1, chunk 0",
        "backward of micro-batch 1, chunk 0",
        "send of gradient 1, chunk 0, to stage 0 with receive of activation 2, chunk 0, from stage "
        "0",
        "forward of micro-batch 2, chunk 0",
        "backward of micro-batch 2, chunk 0",
        "send of gradient 2, chunk 0, to stage 0",
    };
    EXPECT_EQ(lines(schedule, 0), first);
    EXPECT_EQ(lines(schedule, 1), second);
}

TEST(Schedule, EachSideNamesItsOwnChunk) {
    const auto schedule = make_schedule(
        {.kind = ScheduleKind::interleaved, .stages = 2, .micro_batches = 2, .chunks = 2});
    const auto count = [&](size_t stage, std::string_view part) {
        int found = 0;
        for (const std::string& line : lines(schedule, stage))
            found += line.find(part) != std::string::npos;
        return found;
    };
    // The last stage's chunk 0 feeds the first stage's chunk 1.
    EXPECT_EQ(count(1, "send of activation 1, chunk 0, to stage 0"), 1);
    EXPECT_EQ(count(0, "receive of activation 1, chunk 1, from stage 1"), 1);
    EXPECT_EQ(count(0, "send of gradient 1, chunk 1, to stage 1"), 1);
    EXPECT_EQ(count(1, "receive of gradient 1, chunk 0, from stage 0"), 1);
}

TEST(Schedule, OneStageSendsNothing) {
    const auto schedule = make_schedule(
        {.kind = ScheduleKind::interleaved, .stages = 1, .micro_batches = 2, .chunks = 2});
    EXPECT_EQ(schedule.actions[0].size(), 8u);
    EXPECT_EQ(computations(schedule, 0), "F0 F0' B0' F1 B0 F1' B1' B1");
}

TEST(Schedule, RefusesByName) {
    expect_error(
        ErrorKind::config,
        [] { make_schedule({.kind = ScheduleKind::zero_bubble_h1, .stages = 2, .chunks = 2}); },
        "parallel.pipeline", "zero_bubble", "got 2", "interleaved");
    expect_error(
        ErrorKind::config, [] { make_schedule({.stages = 0}); }, "parallel.pipeline", "got 0");
    expect_error(
        ErrorKind::config, [] { make_schedule({.micro_batches = -3}); }, "micro-batch", "-3");
}

}  // namespace
}  // namespace plinth::test
