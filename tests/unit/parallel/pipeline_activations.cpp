// SPDX-License-Identifier: Apache-2.0
// Inputs that wait in host memory while several micro-batches of a pipeline stage are under way:
// every schedule has the gradients of one that keeps them, and sees a copy that is not waited for.
#include <gtest/gtest.h>

#include <map>
#include <mutex>

#include "core/autograd/activation_store.h"
#include "core/autograd/recompute.h"
#include "parallel/comm/threads.h"
#include "parallel/pipeline_parallel/check.h"
#include "parallel/pipeline_parallel/runner.h"
#include "tests/support/late_copies.h"
#include "tests/support/pipeline_chunks.h"
#include "tests/support/surroundings.h"

namespace plinth::test {
namespace {

using core::Tensor;
using parallel::ScheduleConfig;
using parallel::ScheduleKind;

class NoSlots final : public parallel::GradientSlots {
  public:
    void begin_forward(size_t, int64_t) override {}
    void end_forward(size_t) override {}
    void begin_backward(size_t, int64_t) override {}
    void end_backward(size_t) override {}
    void progress() override {}
};

struct Case {
    ScheduleConfig schedule;
    bool stores = true;
    LateCopies::Faults to_host = {}, to_device = {};
};

constexpr int blocks = 3;         ///< of each chunk
constexpr int micro_batches = 5;  ///< of a step
constexpr int64_t width = 16;

struct Outcome {
    std::map<std::pair<int, size_t>, std::vector<float>> gradients;  ///< by stage, chunk
    std::vector<float> losses;
    std::map<int, size_t> on_host;  ///< by stage, most bytes
};

/// x + x^2 / 8; the gradient of its weight, 1, is dy x.
class Bending {
  public:
    explicit Bending(Surroundings& around) : around_(around) {}

    Tensor operator()(const Tensor& x, std::vector<float>& gradients) {
        const std::vector<float> in = x.values<float>();
        std::vector<float> out;
        for (const float value : in)
            out.push_back(value + value * value / 8);
        Tensor y = around_.tensor(out);
        core::Tape* tape = core::Scope::current().tape();
        if (!tape) return y;
        const core::SavedTensor saved(x);
        tape->record(
            "bend", {&x}, {&y},
            [this, saved](core::NodeGradients& node) {
                node.set_input(0, around_.tensor(times(node.of_output(0), saved,
                                                       [](float value) { return 1 + value / 4; })));
            },
            [&gradients, saved](core::NodeGradients& node) {
                for (const float value :
                     times(node.of_output(0), saved, [](float input) { return input; }))
                    gradients.push_back(value);
            },
            /*has_parameters=*/true);
        return y;
    }

  private:
    template <typename F>
    static std::vector<float> times(const Tensor& dy, const core::SavedTensor& saved, F&& factor) {
        const std::vector<float> x = saved.get("bend").values<float>();
        std::vector<float> product;
        for (size_t i = 0; i < x.size(); ++i)
            product.push_back(dy.data<float>()[dy.elements() == 1 ? 0 : i] * factor(x[i]));
        return product;
    }

    Surroundings& around_;
};

Outcome outcome_of(const Case& c) {
    std::mutex mutex;
    Outcome outcome;
    parallel::run_as_threads(
        c.schedule.stages,
        [&](parallel::Communicator& stages) {
            Surroundings around(1);
            core::ActivationStore store(host_memory(),
                                        {.to_host = std::make_unique<LateCopies>(c.to_host),
                                         .to_device = std::make_unique<LateCopies>(c.to_device)});
            NoSlots slots;
            Bending bend(around);
            std::vector<std::vector<float>> gradients(static_cast<size_t>(c.schedule.chunks));
            const auto chunks =
                chunks_of_stage(c.schedule, stages.rank(), [&](size_t chunk, const Tensor& input) {
                    Tensor x = input;
                    for (int block = 0; block < blocks; ++block)
                        x = core::recompute(
                            [&, chunk](const Tensor& in) {
                                return bend(bend(in, gradients[chunk]), gradients[chunk]);
                            },
                            x);
                    return x;
                });
            parallel::PipelineRunner runner(c.schedule, stages, around.allocator);
            std::vector<std::optional<int64_t>> numbers;
            for (int64_t i = 0; i < micro_batches; ++i)
                numbers.emplace_back(i);
            core::Scope::Settings settings = around.settings();
            if (c.stores) settings.activations = &store;
            const auto batch = [&](int64_t slot) {
                std::vector<float> values;
                for (int64_t i = 0; i < width; ++i)
                    values.push_back(0.01f * static_cast<float>((i * 37 + slot * 101) % 193 - 96));
                core::Batch made;
                made.tokens = around.tensor(values);
                return made;
            };
            const auto on_loss = [&](int64_t, const core::ops::Loss& loss) {
                const std::lock_guard lock(mutex);
                outcome.losses.push_back(loss.sum.data<float>()[0]);
            };
            runner.run({.chunks = chunks,
                        .slots = numbers,
                        .scope = settings,
                        .batch = batch,
                        .on_loss = on_loss,
                        .gradients = &slots});
            const std::lock_guard lock(mutex);
            for (size_t chunk = 0; chunk < gradients.size(); ++chunk)
                outcome.gradients[{stages.rank(), chunk}] = std::move(gradients[chunk]);
            outcome.on_host[stages.rank()] = store.peak_bytes();
        },
        {.time_limit = std::chrono::seconds(20)});
    return outcome;
}

std::vector<ScheduleConfig> schedules() {
    std::vector<ScheduleConfig> all;
    for (const int stages : {1, 2, 3})
        for (const auto kind : {ScheduleKind::gpipe, ScheduleKind::one_f_one_b,
                                ScheduleKind::interleaved, ScheduleKind::zero_bubble_h1})
            for (const int chunks : {1, 2})
                if (chunks == 1 || (kind == ScheduleKind::interleaved && stages > 1))
                    all.push_back({kind, stages, micro_batches, chunks});
    return all;
}

std::string text_of(const ScheduleConfig& config) {
    return fmt::format("{}, {} stages of {} chunks", name_of(config.kind), config.stages,
                       config.chunks);
}

TEST(PipelineActivations, ComeBackWithTheirBitsInEverySchedule) {
    for (const ScheduleConfig& config : schedules()) {
        SCOPED_TRACE(text_of(config));
        const Outcome kept = outcome_of({.schedule = config, .stores = false}),
                      stored = outcome_of({.schedule = config});
        EXPECT_EQ(kept.losses.size(), static_cast<size_t>(micro_batches));
        EXPECT_EQ(kept.gradients.at({0, 0}).size(),
                  static_cast<size_t>(2 * blocks * micro_batches * width));
        EXPECT_EQ(stored.losses, kept.losses);
        EXPECT_EQ(stored.gradients, kept.gradients);
        const auto report = parallel::check_schedule(parallel::make_schedule(config));
        for (const auto& [stage, bytes] : stored.on_host)
            EXPECT_LE(bytes, static_cast<size_t>(
                                 report.stages[static_cast<size_t>(stage)].peak_activations *
                                 blocks * width) *
                                 sizeof(float));
    }
}

TEST(PipelineActivationsMutants, CopiesThatNobodyWaitsForAreSeen) {
    for (const ScheduleConfig& config : schedules()) {
        SCOPED_TRACE(text_of(config));
        const Outcome kept = outcome_of({.schedule = config, .stores = false});
        EXPECT_NE(outcome_of({.schedule = config, .to_host = {.does_not_hold = true}}).gradients,
                  kept.gradients);
        EXPECT_NE(outcome_of({.schedule = config, .to_device = {.does_not_hold = true}}).gradients,
                  kept.gradients);
        EXPECT_NE(outcome_of({.schedule = config, .to_host = {.forgotten = 0}}).gradients,
                  kept.gradients);
        EXPECT_NE(outcome_of({.schedule = config, .to_device = {.forgotten = 0}}).gradients,
                  kept.gradients);
    }
}

}  // namespace
}  // namespace plinth::test
