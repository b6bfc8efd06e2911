// SPDX-License-Identifier: Apache-2.0
// Captured micro-batches and updates: on the CPU their kernels with their arguments, launched
// again, so that whatever differs from one micro-batch to the next must be the content of tensors.
#include "launch/micro_batch_graphs.h"

#include <gtest/gtest.h>

#include "tests/unit/launch/late_runs.h"

namespace plinth::launch::test {
namespace {

LateRun train(RunConfig config, bool uses_graphs, const LateOptions& options = {}) {
    config.run.graphs = uses_graphs;
    return run_late(config, options);
}

RunConfig without_dropout(const std::string& file, std::vector<std::string> words = {}) {
    words.push_back("model.dropout=0");
    if (file.starts_with("bloom")) words.push_back("model.heads=4");
    return tiny_config(file, words);
}

TEST(MicroBatchGraphs, ChangeNoBit) {
    for (const char* file : {"gpt/tiny.yaml", "llama/tiny.yaml"})
        for (const char* dtype : {"train.dtype=fp32", "train.dtype=bf16"}) {
            const RunConfig config =
                without_dropout(file, {dtype, "train.lanes=3", "optimizer.z_loss=1e-4"});
            const LateRun plain = train(config, false), captured = train(config, true);
            EXPECT_EQ(difference(plain.run, captured.run), "") << file << ' ' << dtype;
            EXPECT_EQ(plain.graphs, 0u);
            // Lanes of 2, 3 and 3 slots: the first, the middle and the last slot of a lane, in the
            // first lane and later.
            EXPECT_EQ(captured.graphs, 5u) << file;
            EXPECT_EQ(captured.launches, 5 * 8 - 5) << "each kind runs once without";
        }
}

TEST(MicroBatchGraphs, ChangeNoBitForAnyLanesAndRecompute) {
    for (const int lanes : {1, 2, 5, 8})
        for (const char* recompute : {"none", "norms", "selective", "full"}) {
            const RunConfig config =
                without_dropout("gpt/tiny.yaml",
                                {fmt::format("train.lanes={}", lanes),
                                 fmt::format("train.recompute={}", recompute), "train.dtype=bf16"});
            RunConfig kept = config;
            kept.train.recompute = Recompute::none;
            const LateRun plain = train(kept, false, {.steps = 3}),
                          captured = train(config, true, {.steps = 3});
            EXPECT_EQ(difference(plain.run, captured.run), "") << lanes << ' ' << recompute;
            EXPECT_GT(captured.launches, 8);
        }
}

TEST(MicroBatchGraphs, FollowABatchThatGrowsAndShrinks) {
    const RunConfig config = without_dropout("gpt/tiny.yaml", {"train.lanes=2"});
    const LateOptions options{.steps = 10, .batches = {2, 8, 2, 4, 8}};
    const LateRun plain = train(config, false, options), captured = train(config, true, options);
    EXPECT_EQ(difference(plain.run, captured.run), "");
    EXPECT_GT(captured.launches, 30);
}

TEST(MicroBatchGraphs, StepsThatAreNotFiniteAreSkipped) {
    const RunConfig config = without_dropout("gpt/tiny.yaml");
    const LateOptions options{.steps = 6, .before_end = spoiling({2, 3})};
    const LateRun plain = train(config, false, options), captured = train(config, true, options);
    EXPECT_EQ(difference(plain.run, captured.run), "");
    EXPECT_EQ(captured.updates, 4);
}

// What the configuration refuses is refused for a reason: kernels keep the step's number.
TEST(MicroBatchGraphs, AMutantWithDropoutIsSeen) {
    const RunConfig config = tiny_config("gpt/tiny.yaml", {});
    ASSERT_GT(config.model.dropout, 0.0);
    const LateRun plain = train(config, false), captured = train(config, true);
    EXPECT_EQ(plain.run.losses.front(), captured.run.losses.front()) << "nothing captured yet";
    EXPECT_NE(difference(plain.run, captured.run), "");
}

// Slopes are copied from host memory that is another's when the graph is launched.
TEST(MicroBatchGraphs, AMutantWithAlibiIsSeen) {
#ifdef __SANITIZE_ADDRESS__
    GTEST_SKIP() << "the mutant reads memory that was given back, which ends the process here";
#endif
    const RunConfig config = without_dropout("bloom/tiny.yaml");
    EXPECT_NE(difference(train(config, false).run, train(config, true).run), "");
}

TEST(MicroBatchGraphs, WhatTheyCannotHoldIsRefusedByName) {
    const auto problem = [](std::vector<std::string> words, int64_t world = 1) {
        RunConfig config = without_dropout("gpt/tiny.yaml", std::move(words));
        config.run.graphs = true;
        const auto found = validate_world(config, world);
        return found ? found->key + ": " + found->message : "";
    };
    EXPECT_EQ(problem({}), "");
    EXPECT_NE(problem({}, 2).find("run.graphs: 2 ranks run"), std::string::npos) << problem({}, 2);
    for (const auto& [words, what] :
         {std::pair{std::vector<std::string>{"train.dtype=bf16", "train.fp8=current"}, "train.fp8"},
          std::pair{std::vector<std::string>{"optimizer.moments=bf16"}, "optimizer.moments"},
          std::pair{std::vector<std::string>{"optimizer.offload=states"}, "optimizer.offload"},
          std::pair{
              std::vector<std::string>{"train.recompute=full", "train.offload_activations=true"},
              "train.offload_activations"},
          std::pair{std::vector<std::string>{"parallel.zero=1"}, "parallel.zero is 1"},
          std::pair{std::vector<std::string>{"parallel.wire_dtype=bf16"}, "parallel.wire_dtype"}})
        EXPECT_NE(problem(words).find(fmt::format("run.graphs: {}", what)), std::string::npos)
            << problem(words);
    RunConfig sloping = without_dropout("bloom/tiny.yaml");
    sloping.run.graphs = true;
    EXPECT_NE(validate_world(sloping, 1)->message.find("model.positions is alibi"),
              std::string::npos);
    RunConfig dropping = tiny_config("gpt/tiny.yaml", {});
    dropping.run.graphs = true;
    EXPECT_NE(validate_world(dropping, 1)->message.find("model.dropout is 0.1"), std::string::npos);
}

// --- one kind after the other
// ---------------------------------------------------------------------

TEST(MicroBatchGraphs, TellKindsByLaneShapeAndMask) {
    CachingAllocator allocator(host_memory());
    const auto batch_of = [&](int64_t rows, int64_t length, bool mask) {
        core::Batch batch;
        batch.tokens = core::Tensor::empty({rows, length}, DType::i32, allocator);
        if (mask) batch.document_ids = core::Tensor::empty({rows, length}, DType::i32, allocator);
        return batch;
    };
    const parallel::LanePlan plan{8, 3, 1};  // lanes of 2, 3 and 3 slots
    const auto kind = [&](int64_t slot) {
        return MicroBatchKind::of(batch_of(2, 16, false), slot, plan);
    };
    EXPECT_TRUE(kind(0).begins_lane && kind(0).is_first_lane && !kind(0).ends_lane);
    EXPECT_TRUE(kind(1).ends_lane && !kind(1).begins_lane);
    EXPECT_EQ(kind(2), kind(5));
    EXPECT_EQ(kind(4), kind(7));
    EXPECT_NE(kind(1), kind(4)) << "of the first lane, whose sum is the total so far";
    EXPECT_NE(kind(0), MicroBatchKind::of(batch_of(2, 16, true), 0, plan));
    EXPECT_NE(kind(0), MicroBatchKind::of(batch_of(2, 8, false), 0, plan));
    EXPECT_NE(kind(0), MicroBatchKind::of(batch_of(4, 16, false), 0, plan));
    EXPECT_TRUE(MicroBatchKind::of(batch_of(2, 16, false), 0, {8, 1, 1}).is_only_lane);
}

}  // namespace
}  // namespace plinth::launch::test
