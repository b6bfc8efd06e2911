// SPDX-License-Identifier: Apache-2.0
#include "parallel/pipeline_parallel/stages.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <limits>

#include "tests/support/expect_error.h"

namespace plinth::test {
namespace {

using parallel::balance_stages;
using parallel::cost_of;
using parallel::given_stages;
using parallel::PartCosts;
using parallel::ScheduleConfig;
using parallel::ScheduleKind;
using parallel::StageParts;

std::vector<int> blocks_of(const std::vector<StageParts>& stages) {
    std::vector<int> counts;
    for (const StageParts& stage : stages)
        counts.push_back(stage.blocks);
    return counts;
}

double largest(const std::vector<StageParts>& stages, const PartCosts& costs) {
    double most = 0.0;
    for (const StageParts& stage : stages)
        most = std::max(most, cost_of(stage, costs));
    return most;
}

/// By trying every set of boundaries between the parts.
double smallest_largest(const PartCosts& costs, int pieces) {
    std::vector<double> list = {costs.embedding};
    list.insert(list.end(), costs.blocks.begin(), costs.blocks.end());
    list.push_back(costs.head);
    double best = std::numeric_limits<double>::infinity();
    for (uint32_t cuts = 0; cuts < 1u << (list.size() - 1); ++cuts) {
        if (std::popcount(cuts) != pieces - 1) continue;
        double piece = 0.0, most = 0.0;
        for (size_t i = 0; i < list.size(); ++i) {
            piece += list[i];
            most = std::max(most, piece);
            if (i + 1 < list.size() && (cuts >> i & 1u)) piece = 0.0;
        }
        best = std::min(best, most);
    }
    return best;
}

TEST(Stages, NoCutIsBetter) {
    uint32_t state = 1;
    const auto next = [&] {
        return static_cast<double>((state = state * 1664525u + 1013904223u) >> 28);
    };
    int tried = 0;
    for (int round = 0; round < 20; ++round)
        for (size_t blocks = 1; blocks <= 8; ++blocks) {
            PartCosts costs{.embedding = next(), .blocks = {}, .head = 3.0 * next()};
            for (size_t i = 0; i < blocks; ++i)
                costs.blocks.push_back(1.0 + next());
            for (int stages = 1; stages <= static_cast<int>(blocks) + 2; ++stages) {
                const auto cut = balance_stages(costs, {.stages = stages});
                EXPECT_EQ(largest(cut, costs), smallest_largest(costs, stages));
                ++tried;
            }
        }
    EXPECT_EQ(tried, 20 * 52);
}

TEST(Stages, AHeavyHeadTakesBlocksFromTheLastStage) {
    const PartCosts costs{.embedding = 0.5, .blocks = std::vector(12, 1.0), .head = 3.0};
    const auto stages = balance_stages(costs, {.stages = 4});
    EXPECT_EQ(blocks_of(stages), (std::vector{3, 4, 4, 1}));
    EXPECT_EQ(stages[0], (StageParts{.first_block = 0, .blocks = 3, .has_embedding = true}));
    EXPECT_EQ(stages[3], (StageParts{.first_block = 11, .blocks = 1, .has_head = true}));
    EXPECT_EQ(cost_of(stages[0], costs), 3.5);
    EXPECT_EQ(cost_of(stages[3], costs), 4.0);
}

TEST(Stages, EqualWaysLeaveEarlyStagesSmall) {
    const PartCosts costs{.blocks = std::vector(10, 1.0)};
    EXPECT_EQ(blocks_of(balance_stages(costs, {.stages = 4})), (std::vector{2, 2, 3, 3}));
}

TEST(Stages, ChunksAreCutInModelOrder) {
    const ScheduleConfig schedule{
        .kind = ScheduleKind::interleaved, .stages = 2, .micro_batches = 4, .chunks = 2};
    const auto stages =
        balance_stages({.embedding = 1.0, .blocks = std::vector(6, 1.0), .head = 1.0}, schedule);
    EXPECT_EQ(blocks_of(stages), (std::vector{1, 2, 2, 1}));
    const StageParts& last = stages[static_cast<size_t>(schedule.virtual_stage(1, 1))];
    EXPECT_EQ(last, (StageParts{.first_block = 5, .blocks = 1, .has_head = true}));
}

TEST(Stages, OneStageHoldsTheWholeModel) {
    const StageParts whole{.first_block = 0, .blocks = 2, .has_embedding = true, .has_head = true};
    EXPECT_EQ(balance_stages({.blocks = {1.0, 1.0}}, {}), std::vector{whole});
    EXPECT_EQ(given_stages({2}, 2, {}), std::vector{whole});
}

TEST(Stages, GivenCuts) {
    const auto stages = given_stages({0, 3, 2}, 5, {.stages = 3});
    EXPECT_EQ(stages[0], (StageParts{.first_block = 0, .blocks = 0, .has_embedding = true}));
    EXPECT_EQ(stages[1], (StageParts{.first_block = 0, .blocks = 3}));
    EXPECT_EQ(stages[2], (StageParts{.first_block = 3, .blocks = 2, .has_head = true}));
}

TEST(Stages, RefusesByKey) {
    const auto refused = [](const std::vector<int>& blocks) {
        expect_error(
            ErrorKind::config, [&] { given_stages(blocks, 6, {.stages = 3}); }, "parallel.pipeline",
            fmt::format("[{}]", fmt::join(blocks, ", ")), "3 numbers of blocks with the sum 6");
    };
    refused({3, 3});
    refused({2, 2, 3});
    refused({3, 0, 3});
    refused({7, -1, 0});
    expect_error(
        ErrorKind::config,
        [] {
            balance_stages({.blocks = {1.0, 1.0}}, {.stages = 5});
        },
        "parallel.pipeline", "5 stages", "has 4", "2 blocks");
    expect_error(
        ErrorKind::internal, [] { balance_stages({.blocks = {-1.0}}, {}); }, "costs -1");
}

}  // namespace
}  // namespace plinth::test
