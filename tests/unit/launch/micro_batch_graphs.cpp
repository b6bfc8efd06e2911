// SPDX-License-Identifier: Apache-2.0
// Captured micro-batches and updates: on the CPU their kernels with their arguments, launched
// again, so that whatever differs from one micro-batch to the next must be the content of tensors.
#include "launch/micro_batch_graphs.h"

#include <gtest/gtest.h>

#include "core/autograd/scope.h"
#include "core/autograd/tape.h"
#include "parallel/comm/self.h"
#include "tests/support/expect_error.h"
#include "tests/support/memory_files.h"
#include "tests/unit/launch/engine_checkpoints.h"
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

// Ranks beside others compute the last slot of each lane as ever, for its gradients leave
// meanwhile.
TEST(MicroBatchGraphs, ChangeNoBitBesideDataRanks) {
    for (const char* zero : {"parallel.zero=0", "parallel.zero=1"})
        for (const int lanes : {2, 4}) {
            const RunConfig config = without_dropout(
                "gpt/tiny.yaml", {"parallel.data=2", zero, fmt::format("train.lanes={}", lanes),
                                  "train.global_batch=16", "train.dtype=bf16"});
            const LateRun plain = train(config, false, {.ranks = 2}),
                          captured = train(config, true, {.ranks = 2});
            EXPECT_EQ(difference(plain.run, captured.run), "") << zero << ' ' << lanes;
            // Of 8 slots of a rank those that end no lane: the first of a lane, and the others.
            EXPECT_EQ(captured.graphs, 2u);
            EXPECT_EQ(captured.launches, 5 * (8 - lanes / 2) - 2) << "each kind runs once without";
            EXPECT_EQ(captured.blocks, std::vector<int64_t>(5, captured.blocks.front()));
            const LateRun alone = train(
                without_dropout("gpt/tiny.yaml", {fmt::format("train.lanes={}", lanes),
                                                  "train.global_batch=16", "train.dtype=bf16"}),
                true);
            EXPECT_EQ(difference(alone.run, captured.run), "") << "more ranks, the same bits";
        }
    // Mutants: the masks of the first step, and a micro-batch more in each lane.
    const std::vector<std::string> words{"parallel.data=2", "train.lanes=2",
                                         "train.global_batch=16"};
    const RunConfig config = tiny_config("gpt/tiny.yaml", words);
    const LateRun plain = train(config, false, {.ranks = 2});
    EXPECT_EQ(difference(plain.run, train(config, true, {.ranks = 2}).run), "");
    EXPECT_NE(difference(plain.run, train(config, true, {.ranks = 2, .step_is_kept = true}).run),
              "");
}

// A device gives no memory to work that is captured.
TEST(MicroBatchGraphs, TakeNoMemoryAfterTheFirstMicroBatchOfAKind) {
    for (const char* file : {"gpt/tiny.yaml", "llama/tiny.yaml"}) {
        const LateRun run = train(without_dropout(file, {"train.lanes=3"}), true);
        ASSERT_EQ(run.graphs, 5u);
        ASSERT_GT(run.blocks.front(), 0);
        EXPECT_EQ(run.blocks, std::vector<int64_t>(run.blocks.size(), run.blocks.front()))
            << file << ": the first step has all kinds, the second captures them";
    }
}

// What the runner holds then lies in the graphs' memory, too, and is given back to it.
TEST(MicroBatchGraphs, AnErrorInABackwardPassEndsTheRun) {
    RunConfig config = without_dropout("gpt/tiny.yaml");
    config.run.graphs = true;
    parallel::SelfCommunicator world;
    EngineRank rank(config, world);
    rank.engine.initialize(rank.step.seed);
    rank.engine.decide_on_device();
    core::models::Phase phase = rank.model->phases().front();
    phase.chunks.front().loss = [sound = phase.chunks.front().loss](const core::Batch& batch,
                                                                    const core::Tensor& x) {
        core::ops::Loss loss = sound(batch, x);
        const core::Tensor before = loss.sum;
        core::Scope::current().tape()->record(
            "broken", {&before}, {&loss.sum},
            [](core::NodeGradients&) { FAIL(internal, "a node that fails"); });
        return loss;
    };
    parallel::StepScalars scalars(0, world);
    plinth::test::expect_error(
        ErrorKind::internal,
        [&] {
            rank.engine.run_micro_batches(
                phase, rank.plan(), rank.step, [&](int64_t slot) { return rank.batch(slot); },
                scalars);
        },
        "a node that fails");
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

// --- what differs from step to step
// -----------------------------------------------------------------

const std::vector<std::string> recompute_modes = {
    "train.recompute=none", "train.recompute=selective", "train.recompute=full"};

TEST(MicroBatchGraphs, DropByTheStep) {
    for (const char* file : {"gpt/tiny.yaml", "bloom/tiny.yaml"})
        for (const std::string& recompute : recompute_modes)
            for (const char* dtype : {"train.dtype=fp32", "train.dtype=bf16"}) {
                const RunConfig config =
                    tiny_config(file, {"train.lanes=3", "model.heads=4", recompute, dtype});
                ASSERT_GT(config.model.dropout, 0.0);
                const LateRun plain = train(config, false), captured = train(config, true);
                EXPECT_EQ(difference(plain.run, captured.run), "") << file << recompute << dtype;
                EXPECT_EQ(captured.graphs, 5u);
            }
}

TEST(MicroBatchGraphs, AMutantWithTheMasksOfTheFirstStepIsSeen) {
    const RunConfig config = tiny_config("gpt/tiny.yaml", {});
    const LateRun plain = train(config, false),
                  mutant = train(config, true, {.step_is_kept = true});
    EXPECT_EQ(plain.run.losses.front(), mutant.run.losses.front());
    EXPECT_NE(difference(plain.run, mutant.run), "");
}

TEST(MicroBatchGraphs, RoundMomentsByTheStep) {
    const RunConfig config = without_dropout("llama/tiny.yaml", {"optimizer.moments=bf16"});
    const LateRun plain = train(config, false), captured = train(config, true);
    EXPECT_EQ(difference(plain.run, captured.run), "");
    const LateRun mutant = train(config, true, {.step_is_kept = true});
    EXPECT_EQ(plain.run.losses[1], mutant.run.losses[1]) << "only the rounding differs";
    EXPECT_NE(difference(plain.run, mutant.run), "");
}

TEST(MicroBatchGraphs, ReadTheSlopesOfAlibi) {
    const RunConfig config = without_dropout("bloom/tiny.yaml", {"train.lanes=3"});
    const LateRun plain = train(config, false), captured = train(config, true);
    EXPECT_EQ(difference(plain.run, captured.run), "");
    EXPECT_EQ(captured.graphs, 5u);
}

TEST(MicroBatchGraphs, ReadTheWeightsOfTheStepInEightBits) {
    for (const std::string& recompute : recompute_modes) {
        const RunConfig config = without_dropout(
            "gpt/tiny.yaml", {"train.dtype=bf16", "train.fp8=current", "train.lanes=3", recompute});
        const LateRun plain = train(config, false), captured = train(config, true);
        EXPECT_EQ(difference(plain.run, captured.run), "") << recompute;
        EXPECT_EQ(captured.graphs, 5u);
    }
}

TEST(MicroBatchGraphs, ReadTheScalesOfTheStep) {
    for (const std::string& recompute : recompute_modes) {
        const RunConfig config = without_dropout(
            "gpt/tiny.yaml", {"train.dtype=bf16", "train.fp8=delayed", "train.lanes=3", recompute});
        const LateRun host = train(config, false, {.steps = 6, .on_device = false, .ahead = 0}),
                      plain = train(config, false, {.steps = 6}),
                      captured = train(config, true, {.steps = 6});
        EXPECT_EQ(difference(host.run, plain.run), "") << recompute;
        EXPECT_EQ(difference(host.run, captured.run), "") << recompute;
        EXPECT_EQ(captured.fp8_history, host.fp8_history);
        EXPECT_EQ(captured.graphs, 10u) << "each kind before the scales are known, and then";
        EXPECT_EQ(captured.launches, 6 * 8 - 10);
        EXPECT_EQ(captured.blocks, std::vector(captured.blocks.size(), captured.blocks.front()));
    }
}

TEST(MicroBatchGraphs, ReadTheScalesOfTheStepOfAllDataRanks) {
    const std::vector<std::string> words{"train.dtype=bf16", "train.fp8=delayed", "train.lanes=2",
                                         "train.global_batch=16"};
    const LateRun alone = train(without_dropout("gpt/tiny.yaml", words), true);
    std::vector<std::string> beside = words;
    beside.insert(beside.end(), {"parallel.data=2", "parallel.zero=1"});
    const LateRun captured = train(without_dropout("gpt/tiny.yaml", beside), true, {.ranks = 2});
    EXPECT_EQ(captured.graphs, 4u);
    EXPECT_EQ(difference(alone.run, captured.run), "");
    EXPECT_EQ(alone.fp8_history, captured.fp8_history);
}

// Nothing is known any more of what graphs took from the history without asking.
TEST(MicroBatchGraphs, FollowAHistoryThatForgets) {
    const RunConfig config = without_dropout(
        "gpt/tiny.yaml", {"train.dtype=bf16", "train.fp8=delayed", "train.lanes=3"});
    std::string nothing;
    const auto options = [&](bool forgets) {
        return LateOptions{.steps = 8, .before_end = [&nothing, forgets](EngineRank& rank, int at) {
                               if (at == 0) nothing = rank.engine.fp8_history();
                               if (at != 5 || !forgets) return;
                               rank.engine.restore_fp8_history(nothing, "it");
                               spoiling({5})(rank, at);  // it would be remembered
                           }};
    };
    const LateRun plain = train(config, false, options(true)),
                  captured = train(config, true, options(true));
    EXPECT_EQ(captured.graphs, 10u);
    EXPECT_EQ(difference(plain.run, captured.run), "");
    EXPECT_EQ(captured.fp8_history, plain.fp8_history);
    EXPECT_NE(difference(plain.run, train(config, true, options(false)).run), "");
}

void go_on_from_a_checkpoint(const std::string& scaling) {
    const RunConfig config = tiny_config(
        "bloom/tiny.yaml",
        {"model.heads=4", "train.lanes=3", "train.dtype=bf16", scaling, "optimizer.moments=bf16"});
    plinth::test::MemoryFiles files;
    std::string history;
    const WithRank saves = [&](EngineRank& rank) {
        save(rank, files);
        history = rank.engine.fp8_history();
    };
    const WithRank restores = [&](EngineRank& rank) {
        restore(rank, files);
        rank.engine.restore_fp8_history(history, "it");
    };
    const LateRun whole = train(config, false, {.steps = 6});
    train(config, true, {.steps = 3, .end = saves});
    LateRun resumed = train(config, true, {.steps = 3, .begin = restores});
    auto& losses = resumed.run.losses;
    EXPECT_EQ(losses, std::vector(whole.run.losses.begin() + 3, whole.run.losses.end()));
    losses = whole.run.losses;
    resumed.run.norms = whole.run.norms;
    EXPECT_EQ(difference(whole.run, resumed.run), "");
    const LateRun mutant =
        train(config, true, {.steps = 3, .begin = restores, .step_is_kept = true});
    EXPECT_NE(mutant.run.state, whole.run.state);
}

TEST(MicroBatchGraphs, GoOnFromACheckpoint) {
    for (const char* scaling : {"train.fp8=current", "train.fp8=delayed"})
        go_on_from_a_checkpoint(scaling);
}

TEST(MicroBatchGraphs, WhatTheyCannotHoldIsRefusedByName) {
    const auto problem = [](const std::vector<std::string>& words, int64_t world = 1) {
        RunConfig config = without_dropout("gpt/tiny.yaml", words);
        config.run.graphs = true;
        const auto found = validate_world(config, world);
        return found ? found->key + ": " + found->message : "";
    };
    EXPECT_EQ(problem({}), "");
    EXPECT_EQ(problem({"train.dtype=bf16", "train.fp8=delayed"}), "");
    EXPECT_EQ(problem({"train.dtype=bf16", "train.fp8=current", "optimizer.moments=bf16",
                       "model.dropout=0.1", "model.positions=alibi"}),
              "");
    EXPECT_EQ(problem({"parallel.data=2", "parallel.zero=1"}, 2), "");
    for (const char* together : {"parallel.tensor=2", "parallel.context=2", "parallel.pipeline=2"})
        EXPECT_NE(problem({together}, 2).find("run.graphs: 2 ranks share each micro-batch"),
                  std::string::npos)
            << problem({together}, 2);
    for (const auto& [words, what] :
         {std::pair{std::vector<std::string>{"optimizer.offload=states"}, "optimizer.offload"},
          std::pair{
              std::vector<std::string>{"train.recompute=full", "train.offload_activations=true"},
              "train.offload_activations"},
          std::pair{std::vector<std::string>{"parallel.zero=2"}, "parallel.zero is 2"},
          std::pair{std::vector<std::string>{"parallel.wire_dtype=bf16"}, "parallel.wire_dtype"}})
        EXPECT_NE(problem(words).find(fmt::format("run.graphs: {}", what)), std::string::npos)
            << problem(words);
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
    const auto beside = [&](int64_t slot) {
        return MicroBatchKind::of(batch_of(2, 16, false), slot, {8, 2, 2});  // lanes of 4 slots
    };
    EXPECT_EQ(beside(0), beside(4));
    EXPECT_TRUE(beside(3).has_exchanges && !beside(2).has_exchanges && !kind(1).has_exchanges);
}

}  // namespace
}  // namespace plinth::launch::test
