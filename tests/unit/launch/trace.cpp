// SPDX-License-Identifier: Apache-2.0
// The ranges of a training step, as a profiler would show them.
#include <gtest/gtest.h>

#include "tests/support/trace_recorder.h"
#include "tests/unit/launch/engine_runs.h"

namespace plinth::launch::test {
namespace {

using plinth::test::TraceRecorder;

class TraceTest : public ::testing::Test {
  protected:
    /// A step of one rank.
    RunConfig run(std::vector<std::string> overrides) {
        const RunConfig config = tiny_config("gpt/tiny.yaml", std::move(overrides));
        run_engine(config, {.ranks = 1, .steps = 1});
        EXPECT_TRUE(recorder_.is_balanced());
        return config;
    }
    /// Micro-batches of it.
    static int64_t slots(const RunConfig& config) {
        return config.train.global_batch / config.train.micro_batch;
    }

    TraceRecorder recorder_;
};

TEST_F(TraceTest, LayersOfTheForwardPassHaveTheirNames) {
    const RunConfig config = run({});
    EXPECT_EQ(recorder_.count("forward"), slots(config));
    EXPECT_EQ(recorder_.count("backward"), slots(config));
    std::vector<std::string> layers{"embedding", "final_norm", "head"};
    for (int64_t layer = 0; layer < config.model.layers; ++layer)
        layers.push_back(fmt::format("blocks.{}", layer));
    for (const std::string& layer : layers)
        EXPECT_EQ(recorder_.count("forward/" + layer), slots(config)) << layer;
}

TEST_F(TraceTest, TheBackwardPassNamesItsOperations) {
    const RunConfig config = run({});
    EXPECT_EQ(recorder_.count("backward/attention"), slots(config) * config.model.layers);
}

TEST_F(TraceTest, ABlockThatRunsAgainIsNamed) {
    const RunConfig config = run({"train.recompute=full"});
    EXPECT_EQ(recorder_.count("forward/blocks.0"), slots(config));
    EXPECT_EQ(recorder_.count("backward/recompute/blocks.0"), slots(config));
    EXPECT_EQ(recorder_.count("backward/recompute/attention"), slots(config) * config.model.layers);
}

TEST_F(TraceTest, CollectivesHaveTheirLabels) {
    const RunConfig config = tiny_config("gpt/tiny.yaml", {"parallel.data=2"});
    run_engine(config, {.ranks = 2, .steps = 1, .on_device = true});
    EXPECT_TRUE(recorder_.is_balanced());
    int64_t buckets = 0;
    for (const std::string& path : recorder_.paths())
        buckets += path.find("bucket 0 (") != std::string::npos ? 1 : 0;
    EXPECT_GT(buckets, 0);
    EXPECT_GT(recorder_.count("step scalars"), 0);
    EXPECT_GE(recorder_.count("losses and norm"), 2) << "on each rank";
}

}  // namespace
}  // namespace plinth::launch::test
