// SPDX-License-Identifier: Apache-2.0
// Steps that the device decides: the bits of those that the host decides, learned late.
#include "launch/step_outcome.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "parallel/comm/self.h"
#include "tests/support/expect_error.h"
#include "tests/support/late_queue.h"
#include "tests/unit/launch/engine_runs.h"

namespace plinth::launch::test {
namespace {

using plinth::test::LateQueue;
using plinth::test::NotedMemory;
using plinth::test::QueueCall;

/// Trains as a training does; `ahead` steps end before the host asks for the means of the first.
struct Decided {
    EngineRun run;
    int64_t updates = 0;
};

Decided train(const RunConfig& config, int steps, bool on_device, size_t ahead,
              const std::function<void(EngineRank&, int)>& before_end = {}) {
    parallel::SelfCommunicator world;
    EngineRank rank(config, world);
    rank.engine.initialize(rank.step.seed);
    if (on_device) {
        rank.engine.decide_on_device();
        CHECK(rank.engine.decides_on_device(), "the device does not decide");
    }
    std::vector<QueueCall> calls;
    rank.session.stream().set_queue(std::make_unique<LateQueue>(calls));
    Decided result;
    size_t pending = 0;
    const auto take = [&](bool waits) {
        const std::optional<StepMeans> means = rank.engine.take_means(waits);
        if (!means) return false;
        result.run.losses.push_back(means->loss);
        result.run.norms.push_back(means->gradient_norm);
        --pending;
        return true;
    };
    for (int step = 0; step < steps; ++step) {
        parallel::StepScalars scalars(on_device ? 0 : rank.plan().slots, world);
        rank.engine.run_micro_batches(
            rank.model->phases().front(), rank.plan(), rank.step,
            [&](int64_t slot) { return rank.batch(slot); }, scalars);
        scalars.reduce(world);
        if (before_end) before_end(rank, step);
        rank.engine.end_step(scalars, 1e-2 / (1.0 + step));
        ++rank.step.step;
        ++pending;
        while (pending > ahead)
            CHECK(take(true), "a step without means");
    }
    while (take(true)) {
    }
    collect(rank, result.run);
    result.updates = rank.engine.update_count();
    return result;
}

/// A gradient that is not finite in these steps.
std::function<void(EngineRank&, int)> spoiling(std::set<int> steps) {
    return [steps = std::move(steps)](EngineRank& rank, int step) {
        if (!steps.contains(step)) return;
        static_cast<float*>(rank.engine.gradients().back().data)[0] = std::nanf("");
    };
}

/// NaNs are what they are.
EngineRun without_norms(EngineRun run) {
    for (double& norm : run.norms)
        if (std::isnan(norm)) norm = -1.0;
    return run;
}

TEST(StepOutcomes, HaveTheBitsOfWhatTheHostDecides) {
    for (const char* file : {"gpt/tiny.yaml", "llama/tiny.yaml"})
        for (const char* dtype : {"train.dtype=fp32", "train.dtype=bf16"}) {
            const RunConfig config = tiny_config(file, {dtype, "optimizer.z_loss=1e-4"});
            const Decided host = train(config, 5, false, 0);
            for (const size_t ahead : {0u, 1u}) {
                const Decided device = train(config, 5, true, ahead);
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
    const Decided clean = train(config, 6, false, 0);
    for (const std::set<int>& bad : {std::set{0}, std::set{2}, std::set{1, 2}, std::set{5}}) {
        const Decided host = train(config, 6, false, 0, spoiling(bad)),
                      device = train(config, 6, true, 1, spoiling(bad));
        EXPECT_EQ(difference(without_norms(host.run), without_norms(device.run)), "");
        EXPECT_EQ(host.updates, 6 - static_cast<int64_t>(bad.size()));
        EXPECT_EQ(device.updates, host.updates);
        EXPECT_NE(difference(without_norms(clean.run), without_norms(device.run)), "");
    }
}

TEST(StepOutcomes, TheHostGoesOneStepAheadAndNoFurther) {
    const RunConfig config = tiny_config("gpt/tiny.yaml", {});
    plinth::test::expect_error(
        ErrorKind::internal, [&] { train(config, 4, true, 2); }, "a step beside 2");
}

TEST(StepOutcomes, OffloadedStatesDelayedScalesAndOtherRanksLeaveItToTheHost) {
    for (const std::vector<std::string>& words :
         {std::vector<std::string>{"optimizer.offload=states"},
          std::vector<std::string>{"train.dtype=bf16", "train.fp8=delayed"}}) {
        parallel::SelfCommunicator world;
        EngineRank rank(tiny_config("gpt/tiny.yaml", words), world);
        rank.engine.decide_on_device();
        EXPECT_FALSE(rank.engine.decides_on_device()) << words.back();
    }
    parallel::run_as_threads(2, [](Communicator& world) {
        EngineRank rank(tiny_config("gpt/tiny.yaml", {"parallel.data=2"}), world);
        rank.engine.decide_on_device();
        EXPECT_FALSE(rank.engine.decides_on_device());
    });
}

TEST(StepOutcomes, GoOnFromACountOfUpdates) {
    const RunConfig config = tiny_config("gpt/tiny.yaml", {});
    const auto from = [&](bool on_device, int64_t count) {
        return train(config, 1, on_device, 0,
                     [&](EngineRank& rank, int) { rank.engine.set_update_count(count); });
    };
    const Decided host = from(false, 1000), device = from(true, 1000);
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
    StepOutcomes outcomes(stream, {.steps = device, .outcomes = pinned});
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
