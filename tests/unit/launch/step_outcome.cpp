// SPDX-License-Identifier: Apache-2.0
// Steps that the device decides: the bits of those that the host decides, learned late.
#include "launch/step_outcome.h"

#include <gtest/gtest.h>

#include "parallel/comm/self.h"
#include "tests/support/expect_error.h"
#include "tests/unit/launch/changed_gradients.h"
#include "tests/unit/launch/late_runs.h"

namespace plinth::launch::test {
namespace {

using plinth::test::LateQueue;
using plinth::test::NotedMemory;
using plinth::test::QueueCall;

LateRun train(const RunConfig& config, int steps, bool on_device, size_t ahead,
              const BeforeEnd& before_end = {}) {
    return run_late(
        config, {.steps = steps, .on_device = on_device, .ahead = ahead, .before_end = before_end});
}

TEST(StepOutcomes, HaveTheBitsOfWhatTheHostDecides) {
    for (const char* file : {"gpt/tiny.yaml", "llama/tiny.yaml"})
        for (const char* dtype : {"train.dtype=fp32", "train.dtype=bf16"}) {
            const RunConfig config = tiny_config(file, {dtype, "optimizer.z_loss=1e-4"});
            const LateRun host = train(config, 5, false, 0);
            for (const size_t ahead : {0u, 1u}) {
                const LateRun device = train(config, 5, true, ahead);
                EXPECT_EQ(difference(host.run, device.run), "") << file << ' ' << ahead;
                EXPECT_EQ(device.updates, 5);
            }
            RunConfig other = config;
            other.optimizer.clip = 0.25;
            EXPECT_NE(difference(host.run, train(other, 5, true, 1).run), "") << "another clip";
        }
}

TEST(StepOutcomes, StepsThatAreNotFiniteAreSkippedAndNotCounted) {
    const RunConfig config = tiny_config("gpt/tiny.yaml", {});
    const LateRun clean = train(config, 6, false, 0);
    for (const std::set<int>& bad : {std::set{0}, std::set{2}, std::set{1, 2}, std::set{5}}) {
        const LateRun host = train(config, 6, false, 0, spoiling(bad)),
                      device = train(config, 6, true, 1, spoiling(bad));
        EXPECT_EQ(difference(host.run, device.run), "");
        EXPECT_EQ(host.updates, 6 - static_cast<int64_t>(bad.size()));
        EXPECT_EQ(device.updates, host.updates);
        EXPECT_NE(difference(clean.run, device.run), "");
    }
}

TEST(StepOutcomes, TheHostGoesOneStepAheadAndNoFurther) {
    const RunConfig config = tiny_config("gpt/tiny.yaml", {});
    plinth::test::expect_error(
        ErrorKind::internal, [&] { train(config, 4, true, 2); }, "a step beside 2");
}

TEST(StepOutcomes, OffloadedStatesLeaveItToTheHost) {
    parallel::SelfCommunicator world;
    EngineRank rank(tiny_config("gpt/tiny.yaml", {"optimizer.offload=states"}), world);
    rank.engine.decide_on_device();
    EXPECT_FALSE(rank.engine.decides_on_device());
}

struct Ranks {
    int count;
    std::vector<std::string> layout;
};

const std::vector<Ranks> layouts{
    {2, {"parallel.data=2"}},
    {2, {"parallel.data=2", "parallel.zero=1"}},
    {2, {"parallel.data=2", "parallel.zero=2"}},
    {2, {"parallel.data=2", "parallel.zero=3"}},
    {2, {"parallel.tensor=2"}},
    {3, {"parallel.context=3", "data.sequence_length=24"}},
    {2, {"parallel.pipeline=2"}},
    {8, {"parallel.tensor=2", "parallel.context=2", "parallel.pipeline=2"}},
};

RunConfig config_of(const Ranks& ranks) {
    std::vector<std::string> words = ranks.layout;
    words.insert(words.end(), {"optimizer.z_loss=1e-4", "train.global_batch=4"});
    return tiny_config("gpt/tiny.yaml", words);
}

TEST(StepOutcomes, OfSeveralRanksHaveTheBitsOfWhatTheHostDecides) {
    for (const Ranks& ranks : layouts) {
        const RunConfig config = config_of(ranks);
        RunOptions options{.ranks = ranks.count};
        const EngineRun host = run_engine(config, options);
        options.on_device = true;
        EXPECT_EQ(difference(host, run_engine(config, options)), "") << ranks.layout.back();
        RunConfig other = config;
        other.optimizer.clip = 0.25;
        EXPECT_NE(difference(host, run_engine(other, options)), "") << ranks.layout.back();
    }
}

/// A run in whose second step the first rank's gradient of one micro-batch is not finite.
EngineRun with_a_spoilt_micro_batch(const RunConfig& config, int ranks, bool on_device) {
    struct Seen {
        int64_t step = 0;
        bool is_spoilt = false;
    } seen;  // by the thread of the first rank
    plinth::test::ChangedGradients gradients(
        [&seen](int rank, const std::string& name, int, View dweight) {
            if (rank != 0 || seen.step != 1 || seen.is_spoilt || !name.ends_with("mlp.up.weight"))
                return;
            *dweight.as<float>() = std::nanf("");
            seen.is_spoilt = true;
        });
    const LayoutDoubles doubles = gradients.doubles();
    const EngineRun run = run_engine(config, {.ranks = ranks,
                                              .begin =
                                                  [&](EngineRank& rank) {
                                                      rank.engine.initialize(rank.step.seed);
                                                      doubles.before_training(
                                                          rank.session.world().rank(), *rank.model);
                                                  },
                                              .after_step =
                                                  [&](EngineRank& rank) {
                                                      if (rank.session.world().rank() == 0)
                                                          seen.step = rank.step.step;
                                                  },
                                              .on_device = on_device});
    EXPECT_TRUE(seen.is_spoilt);
    return run;
}

// One rank has a gradient that is not finite, before the sums over ranks: all skip the step.
TEST(StepOutcomes, OfSeveralRanksSkipTogetherWhatOneComputes) {
    for (const Ranks& ranks : layouts) {
        const RunConfig config = config_of(ranks);
        const EngineRun clean = run_engine(config, {.ranks = ranks.count, .on_device = true}),
                        host = with_a_spoilt_micro_batch(config, ranks.count, false),
                        device = with_a_spoilt_micro_batch(config, ranks.count, true);
        EXPECT_EQ(difference(host, device), "") << ranks.layout.back();
        EXPECT_EQ(device.norms[1], -1.0) << ranks.layout.back();
        EXPECT_GT(device.norms[2], 0.0) << ranks.layout.back();
        EXPECT_NE(difference(clean, device), "") << ranks.layout.back();
    }
}

// One rank has gradients that are not finite after them: all skip the step.
TEST(StepOutcomes, OfSeveralRanksSkipTogether) {
    for (const Ranks& ranks : layouts) {
        // There a rank counts the sums that it owns, and what can be spoilt here are copies.
        if (ranks.layout == std::vector<std::string>{"parallel.data=2"}) continue;
        const RunConfig config = config_of(ranks);
        RunOptions options{.ranks = ranks.count};
        options.on_device = true;
        const EngineRun clean = run_engine(config, options);
        options.before_end = [](EngineRank& rank) {
            if (rank.step.step != 1 || rank.session.world().rank() != 0) return;
            for (const core::StateTensor& gradient : rank.engine.gradients())
                std::fill_n(static_cast<float*>(gradient.data), gradient.shard.elements(),
                            std::nanf(""));
        };
        const EngineRun device = run_engine(config, options);
        options.on_device = false;
        EXPECT_EQ(difference(run_engine(config, options), device), "") << ranks.layout.back();
        EXPECT_EQ(device.norms[1], -1.0) << ranks.layout.back();
        EXPECT_NE(difference(clean, device), "") << ranks.layout.back();
    }
}

TEST(StepOutcomes, GoOnFromACountOfUpdates) {
    const RunConfig config = tiny_config("gpt/tiny.yaml", {});
    const auto from = [&](bool on_device, int64_t count) {
        return train(config, 1, on_device, 0,
                     [&](EngineRank& rank, int) { rank.engine.set_update_count(count); });
    };
    const LateRun host = from(false, 1000), device = from(true, 1000);
    EXPECT_EQ(difference(host.run, device.run), "");
    EXPECT_EQ(device.updates, 1001);
    EXPECT_NE(difference(host.run, from(true, 0).run), "");
}

// --- the way to the host ------------------------------------------------------------------------

/// Outcomes without a model: losses 10, 20, ... of steps of one micro-batch, no gradients.
std::vector<double> losses_read(bool never_waits, std::vector<QueueCall>& calls) {
    NotedMemory pinned_memory;
    CachingAllocator device(host_memory()), pinned(pinned_memory);
    Stream stream(1);
    stream.set_queue(std::make_unique<LateQueue>(
        calls, LateQueue::Options{.late = &pinned_memory, .never_waits = never_waits}));
    core::optim::AdamW optimizer(std::vector<core::optim::MasterWeights>{}, {}, device);
    parallel::SelfCommunicator world;
    StepOutcomes outcomes(world, {}, stream, {.steps = device, .outcomes = pinned});
    std::vector<double> losses;
    const auto take = [&](bool waits) {
        const auto words = outcomes.take(waits);
        if (!words) return false;
        losses.push_back((*words)[kernels::StepWord::loss]);
        if (!never_waits)
            optimizer.set_update_count(static_cast<int64_t>((*words)[kernels::StepWord::updates]));
        return true;
    };
    for (int step = 1; step <= 4; ++step) {
        outcomes.begin_step(1);
        const auto number = [&](double value) {
            return core::Tensor::of(std::vector<double>{value}, {1}, device);
        };
        outcomes.add(0, {.sum = number(10.0 * step),
                         .cross_entropy = number(10.0 * step),
                         .weight = core::Tensor::of(std::vector<int64_t>{2}, {1}, device),
                         .correct = {}});
        outcomes.end_passes();
        outcomes.update({.learning_rate = 1e-3}, optimizer);
        if (outcomes.pending() == 1) {
            EXPECT_EQ(take(/*waits=*/false), never_waits) << "of step " << step;
        } else {
            EXPECT_TRUE(take(/*waits=*/true));
        }
    }
    while (take(/*waits=*/true)) {
    }
    return losses;
}

TEST(StepOutcomes, AreReadWhenTheyAreThere) {
    std::vector<QueueCall> calls;
    EXPECT_EQ(losses_read(false, calls), (std::vector{5.0, 10.0, 15.0, 20.0}));
    using enum QueueCall::Kind;
    // After each step a wait for the one before.
    EXPECT_EQ(calls, (std::vector<QueueCall>{{place, 0},
                                             {place, 1},
                                             {wait_for_place, 0},
                                             {place, 2},
                                             {wait_for_place, 1},
                                             {place, 3},
                                             {wait_for_place, 2},
                                             {wait_for_place, 3}}));
    // The mutant takes what is in host memory before it is copied there.
    std::vector<QueueCall> ignored;
    EXPECT_NE(losses_read(true, ignored), (std::vector{5.0, 10.0, 15.0, 20.0}));
}

}  // namespace
}  // namespace plinth::launch::test
