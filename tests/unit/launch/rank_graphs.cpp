// SPDX-License-Identifier: Apache-2.0
// Captured micro-batches of ranks beside others: lanes that are no even share, batches that change,
// steps that are skipped.
#include <gtest/gtest.h>

#include "tests/unit/launch/changed_gradients.h"
#include "tests/unit/launch/late_runs.h"

namespace plinth::launch::test {
namespace {

LateRun train(RunConfig config, bool uses_graphs, const LateOptions& options = {}) {
    config.run.graphs = uses_graphs;
    return run_late(config, options);
}

RunConfig without_dropout(std::vector<std::string> words) {
    words.push_back("model.dropout=0");
    return tiny_config("gpt/tiny.yaml", words);
}

// Of three lanes on two ranks the second rank has none in the last round, in which it only takes
// part in the exchange.
TEST(RankGraphs, ChangeNoBitWhereOneHasALaneLess) {
    for (const char* zero : {"parallel.zero=0", "parallel.zero=1"}) {
        const std::vector<std::string> words{"train.lanes=3", "train.global_batch=12",
                                             "train.dtype=bf16"};
        std::vector<std::string> beside = words;
        beside.insert(beside.end(), {"parallel.data=2", zero});
        const RunConfig config = without_dropout(beside);
        const LateRun plain = train(config, false, {.ranks = 2}),
                      captured = train(config, true, {.ranks = 2}),
                      alone = train(without_dropout(words), true);
        EXPECT_EQ(difference(plain.run, captured.run), "") << zero;
        EXPECT_EQ(difference(alone.run, captured.run), "") << zero;
        EXPECT_EQ(captured.graphs, 2u) << "the first and the middle slots of a lane";
        EXPECT_EQ(captured.launches, 5 * (8 - 2) - 2);
        EXPECT_EQ(captured.blocks, std::vector<int64_t>(5, captured.blocks.front()));
        RunConfig other = config;
        other.train.lanes = 2;
        EXPECT_NE(difference(plain.run, train(other, true, {.ranks = 2}).run), "") << "a lane less";
    }
}

TEST(RankGraphs, FollowABatchThatGrowsAndShrinks) {
    for (const char* lanes : {"train.lanes=2", "train.lanes=3"})
        for (const char* zero : {"parallel.zero=0", "parallel.zero=1"}) {
            const LateOptions one{.steps = 10, .batches = {6, 16, 6, 8, 16}};
            LateOptions two = one;
            two.ranks = 2;
            const LateRun alone = train(without_dropout({lanes}), true, one);
            const RunConfig config = without_dropout({lanes, "parallel.data=2", zero});
            const LateRun plain = train(config, false, two), captured = train(config, true, two);
            EXPECT_EQ(difference(plain.run, captured.run), "") << lanes << ' ' << zero;
            EXPECT_EQ(difference(alone.run, captured.run), "") << lanes << ' ' << zero;
            EXPECT_GT(captured.launches, 20);
            two.batches = {6, 16, 6, 8, 12};
            EXPECT_NE(difference(plain.run, train(config, true, two).run), "") << "other batches";
        }
}

/// A run in which a gradient of one rank is not finite in these steps, before the sum over ranks:
/// of a micro-batch that is computed as ever, since the others' work is launched again as it was.
LateRun train_spoilt(const RunConfig& config, bool uses_graphs, const std::set<int>& bad) {
    struct Seen {
        int step = 0;
        std::set<int> spoilt = {};
    } seen;  // by the thread of the second rank
    plinth::test::ChangedGradients gradients(
        [&](int rank, const std::string& name, int, View dweight) {
            if (rank != 1 || !bad.contains(seen.step) || !name.ends_with("mlp.up.weight")) return;
            if (!seen.spoilt.insert(seen.step).second) return;
            *dweight.as<float>() = std::nanf("");
        });
    const LayoutDoubles doubles = gradients.doubles();
    const LateRun run =
        train(config, uses_graphs,
              {.steps = 6,
               .ranks = 2,
               .before_end =
                   [&](EngineRank& rank, int step) {
                       if (rank.session.world().rank() == 1) seen.step = step + 1;
                   },
               .begin =
                   [&](EngineRank& rank) {
                       rank.engine.initialize(rank.step.seed);
                       doubles.before_training(rank.session.world().rank(), *rank.model);
                   }});
    EXPECT_EQ(seen.spoilt, bad);
    return run;
}

TEST(RankGraphs, StepsThatAreNotFiniteAreSkipped) {
    for (const char* zero : {"parallel.zero=0", "parallel.zero=1"}) {
        const RunConfig config =
            without_dropout({"parallel.data=2", "train.lanes=2", "train.global_batch=16", zero});
        const LateRun clean = train_spoilt(config, true, {});
        EXPECT_EQ(clean.updates, 6);
        for (const std::set<int>& bad : {std::set{0}, std::set{2, 3}}) {
            const LateRun plain = train_spoilt(config, false, bad),
                          captured = train_spoilt(config, true, bad);
            EXPECT_EQ(difference(plain.run, captured.run), "") << zero;
            EXPECT_EQ(captured.updates, 6 - static_cast<int64_t>(bad.size())) << zero;
            EXPECT_NE(difference(clean.run, captured.run), "") << zero;
            EXPECT_EQ(captured.launches, 6 * (8 - 1) - 2) << zero;
        }
    }
}

}  // namespace
}  // namespace plinth::launch::test
