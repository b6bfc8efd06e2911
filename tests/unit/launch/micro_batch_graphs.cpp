// SPDX-License-Identifier: Apache-2.0
// Captured micro-batches and updates: on the CPU their kernels with their arguments, launched
// again, so that whatever differs from one micro-batch to the next must be the content of tensors.
#include "launch/micro_batch_graphs.h"

#include <gtest/gtest.h>

#include <cmath>

#include "parallel/comm/self.h"
#include "tests/support/late_queue.h"
#include "tests/unit/launch/engine_runs.h"

namespace plinth::launch::test {
namespace {

struct Trained {
    EngineRun run;
    size_t graphs = 0;
    int64_t launches = 0, updates = 0;
};

using Alter = std::function<void(EngineRank&, int step)>;

/// As a training does, one step behind. `batches` of each step in turn; empty: as many as ever.
Trained train(RunConfig config, bool uses_graphs, int steps = 5,
              const std::vector<int64_t>& batches = {}, const Alter& before_end = {}) {
    config.run.graphs = uses_graphs;
    parallel::SelfCommunicator world;
    EngineRank rank(config, world);
    rank.engine.initialize(rank.step.seed);
    rank.engine.decide_on_device();
    std::vector<plinth::test::QueueCall> calls;
    rank.session.stream().set_queue(std::make_unique<plinth::test::LateQueue>(calls));
    Trained trained;
    const auto take = [&] {
        const std::optional<StepMeans> means = rank.engine.take_means(/*waits=*/true);
        if (!means) return false;
        trained.run.losses.push_back(means->loss);
        trained.run.norms.push_back(std::isnan(means->gradient_norm) ? -1.0 : means->gradient_norm);
        return true;
    };
    for (int step = 0; step < steps; ++step) {
        if (!batches.empty())
            rank.config.train.global_batch = batches[static_cast<size_t>(step) % batches.size()];
        parallel::StepScalars scalars(0, world);
        rank.engine.run_micro_batches(
            rank.model->phases().front(), rank.plan(), rank.step,
            [&](int64_t slot) { return rank.batch(slot); }, scalars);
        scalars.reduce(world);
        if (before_end) before_end(rank, step);
        rank.engine.end_step(scalars, 1e-2 / (1.0 + step));
        ++rank.step.step;
        if (step > 0) CHECK(take(), "a step without means");
    }
    while (take()) {
    }
    collect(rank, trained.run);
    trained.updates = rank.engine.update_count();
    if (const MicroBatchGraphs* graphs = rank.engine.graphs()) {
        trained.graphs = graphs->graphs();
        trained.launches = graphs->launches();
    }
    return trained;
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
            const Trained plain = train(config, false), captured = train(config, true);
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
        for (const char* recompute : {"none", "selective", "full"}) {
            const RunConfig config =
                without_dropout("gpt/tiny.yaml",
                                {fmt::format("train.lanes={}", lanes),
                                 fmt::format("train.recompute={}", recompute), "train.dtype=bf16"});
            const Trained plain = train(config, false, 3), captured = train(config, true, 3);
            EXPECT_EQ(difference(plain.run, captured.run), "") << lanes << ' ' << recompute;
            EXPECT_GT(captured.launches, 8);
        }
}

TEST(MicroBatchGraphs, FollowABatchThatGrowsAndShrinks) {
    const RunConfig config = without_dropout("gpt/tiny.yaml", {"train.lanes=2"});
    const std::vector<int64_t> batches{2, 8, 2, 4, 8};
    const Trained plain = train(config, false, 10, batches),
                  captured = train(config, true, 10, batches);
    EXPECT_EQ(difference(plain.run, captured.run), "");
    EXPECT_GT(captured.launches, 30);
}

TEST(MicroBatchGraphs, StepsThatAreNotFiniteAreSkipped) {
    const RunConfig config = without_dropout("gpt/tiny.yaml");
    const Alter spoil = [](EngineRank& rank, int step) {
        if (step == 2 || step == 3)
            static_cast<float*>(rank.engine.gradients().back().data)[0] = std::nanf("");
    };
    const Trained plain = train(config, false, 6, {}, spoil),
                  captured = train(config, true, 6, {}, spoil);
    EXPECT_EQ(difference(plain.run, captured.run), "");
    EXPECT_EQ(captured.updates, 4);
}

// What the configuration refuses is refused for a reason: kernels keep the step's number.
TEST(MicroBatchGraphs, AMutantWithDropoutIsSeen) {
    const RunConfig config = tiny_config("gpt/tiny.yaml", {});
    ASSERT_GT(config.model.dropout, 0.0);
    const Trained plain = train(config, false), captured = train(config, true);
    EXPECT_EQ(plain.run.losses.front(), captured.run.losses.front()) << "nothing captured yet";
    EXPECT_NE(difference(plain.run, captured.run), "");
}

// Slopes are copied from host memory that is another's when the graph is launched.
TEST(MicroBatchGraphs, AMutantWithAlibiIsSeen) {
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
