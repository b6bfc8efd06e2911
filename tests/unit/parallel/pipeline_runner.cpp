// SPDX-License-Identifier: Apache-2.0
#include "parallel/pipeline_parallel/runner.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <mutex>

#include "core/ops/add.h"
#include "parallel/comm/threads.h"
#include "parallel/pipeline_parallel/check.h"
#include "tests/support/pipeline_chunks.h"
#include "tests/support/surroundings.h"

namespace plinth::test {
namespace {

using core::Tensor;
using parallel::ScheduleConfig;
using parallel::ScheduleKind;

/// Writes down what the runner says, and checks that each chunk's passes come in slot order.
class SlotLog final : public parallel::GradientSlots {
  public:
    explicit SlotLog(size_t chunks) : forward(chunks), backward(chunks) {}
    void begin_forward(size_t chunk, int64_t slot) override { forward[chunk].push_back(slot); }
    void end_forward(size_t) override {}
    void begin_backward(size_t chunk, int64_t slot) override {
        EXPECT_EQ(open_, -1) << "two weight halves at once";
        open_ = static_cast<int>(chunk);
        backward[chunk].push_back(slot);
    }
    void end_backward(size_t chunk) override {
        EXPECT_EQ(open_, static_cast<int>(chunk));
        open_ = -1;
    }
    void progress() override { ++calls; }
    /// A weight half has run; it must be inside of its slot.
    void weight(size_t chunk) { EXPECT_EQ(open_, static_cast<int>(chunk)); }

    std::vector<std::vector<int64_t>> forward, backward;
    int64_t calls = 0;

  private:
    int open_ = -1;
};

/// Chunks that double their input; virtual stage g of the last chunk gives x[0] as the loss.
class Doubling {
  public:
    Doubling(Surroundings& around, const ScheduleConfig& config, int stage, SlotLog& log)
        : chunks(chunks_of_stage(
              config, stage, [this](size_t chunk, const Tensor& x) { return doubled(x, chunk); })),
          around_(around),
          log_(log) {}

    std::vector<core::models::Chunk> chunks;
    std::vector<float> gradients;  ///< of each chunk's weight halves, as they come

  private:
    Tensor doubled(const Tensor& x, size_t chunk) {
        Tensor y = around_.tensor({2 * x.data<float>()[0]});
        if (core::Tape* tape = core::Scope::current().tape())
            tape->record(
                "double", {&x}, {&y},
                [this](core::NodeGradients& node) {
                    const float dy = node.of_output(0).data<float>()[0];
                    if (node.wants_input(0)) node.set_input(0, around_.tensor({2 * dy}));
                },
                [this, chunk](core::NodeGradients& node) {
                    log_.weight(chunk);
                    gradients.push_back(node.of_output(0).data<float>()[0]);
                },
                /*has_parameters=*/true);
        return y;
    }

    Surroundings& around_;
    SlotLog& log_;
};

std::vector<ScheduleConfig> schedules() {
    std::vector<ScheduleConfig> all;
    for (const int stages : {1, 2, 3, 4})
        for (const int micro_batches : {1, 2, 5, 8})
            for (const auto kind : {ScheduleKind::gpipe, ScheduleKind::one_f_one_b,
                                    ScheduleKind::interleaved, ScheduleKind::zero_bubble_h1})
                for (const int chunks : {1, 2, 3})
                    if (chunks == 1 || (kind == ScheduleKind::interleaved && stages > 1))
                        all.push_back({kind, stages, micro_batches, chunks});
    return all;
}

std::vector<std::optional<int64_t>> all_slots(int count) {
    std::vector<std::optional<int64_t>> slots;
    for (int i = 0; i < count; ++i)
        slots.emplace_back(10 + i);
    return slots;
}

std::vector<int64_t> present(const std::vector<std::optional<int64_t>>& slots) {
    std::vector<int64_t> result;
    for (const auto& slot : slots)
        if (slot) result.push_back(*slot);
    return result;
}

/// Runs one step on every stage; `look` sees what a stage did.
void run_step(const ScheduleConfig& config, const std::vector<std::optional<int64_t>>& slots,
              bool trains,
              const std::function<void(int stage, int peak, const SlotLog&, const Doubling&,
                                       const std::vector<float>& losses)>& look) {
    std::mutex mutex;
    parallel::run_as_threads(config.stages,
                             [&](parallel::Communicator& stages) {
                                 Surroundings around(1);
                                 SlotLog log(size_t(config.chunks));
                                 Doubling model(around, config, stages.rank(), log);
                                 parallel::PipelineRunner runner(config, stages, around.allocator);
                                 std::vector<float> losses;
                                 const auto batch = [&](int64_t slot) {
                                     core::Batch made;
                                     made.tokens = around.tensor({static_cast<float>(slot)});
                                     return made;
                                 };
                                 const auto on_loss = [&](int64_t slot,
                                                          const core::ops::Loss& loss) {
                                     EXPECT_EQ(slot, present(slots)[losses.size()]);
                                     losses.push_back(loss.sum.data<float>()[0]);
                                 };
                                 runner.run({.chunks = model.chunks,
                                             .slots = slots,
                                             .scope = around.settings(),
                                             .batch = batch,
                                             .on_loss = on_loss,
                                             .gradients = trains ? &log : nullptr});
                                 const std::lock_guard lock(mutex);
                                 look(stages.rank(), runner.peak_activations(), log, model, losses);
                             },
                             {.time_limit = std::chrono::seconds(20)});
}

TEST(PipelineRunner, RunsEverySchedulesWithItsPeakAndInSlotOrder) {
    for (const ScheduleConfig& config : schedules()) {
        const auto report = parallel::check_schedule(parallel::make_schedule(config));
        const auto slots = all_slots(config.micro_batches);
        const float factor = static_cast<float>(1 << config.virtual_stages());
        run_step(
            config, slots, /*trains=*/true,
            [&](int stage, int peak, const SlotLog& log, const Doubling& model,
                const std::vector<float>& losses) {
                SCOPED_TRACE(fmt::format("{}: {} stages, {} micro-batches, {} chunks, stage {}",
                                         name_of(config.kind), config.stages, config.micro_batches,
                                         config.chunks, stage));
                EXPECT_EQ(peak, report.stages[size_t(stage)].peak_activations);
                for (int c = 0; c < config.chunks; ++c) {
                    EXPECT_EQ(log.forward[size_t(c)], present(slots));
                    EXPECT_EQ(log.backward[size_t(c)], present(slots));
                }
                EXPECT_EQ(model.gradients.size(),
                          size_t(config.micro_batches) * size_t(config.chunks));
                if (stage + 1 < config.stages) return;
                ASSERT_EQ(losses.size(), slots.size());
                for (size_t i = 0; i < losses.size(); ++i)
                    EXPECT_EQ(losses[i], factor * static_cast<float>(*slots[i]));
            });
    }
}

TEST(PipelineRunner, GradientsComeBackThroughAllStages) {
    const ScheduleConfig config{ScheduleKind::interleaved, 2, 4, 2};
    run_step(
        config, all_slots(4), /*trains=*/true,
        [&](int stage, int, const SlotLog& log, const Doubling& model, const std::vector<float>&) {
            // d loss / d (output of virtual stage g) = 2^(3 - g).
            std::vector<float> expected;
            for (const int g : {stage, stage + 2})
                expected.insert(expected.end(), 4, static_cast<float>(1 << (3 - g)));
            std::vector<float> got = model.gradients;
            std::sort(got.begin(), got.end(), std::greater<>());
            EXPECT_EQ(got, expected);
            EXPECT_GE(log.calls, 16);
        });
}

TEST(PipelineRunner, LeavesGapsOutOnAllStages) {
    for (const ScheduleConfig& config : schedules()) {
        if (config.micro_batches < 5) continue;
        auto slots = all_slots(config.micro_batches);
        slots[1] = slots[4] = std::nullopt;
        run_step(config, slots, /*trains=*/true,
                 [&](int stage, int, const SlotLog& log, const Doubling&,
                     const std::vector<float>& losses) {
                     for (const auto& of_chunk : log.backward)
                         EXPECT_EQ(of_chunk, present(slots));
                     EXPECT_EQ(losses.size(),
                               stage + 1 == config.stages ? present(slots).size() : 0u);
                 });
    }
}

TEST(PipelineRunner, ForwardPassesAlone) {
    for (const ScheduleConfig& config : schedules())
        run_step(config, all_slots(config.micro_batches), /*trains=*/false,
                 [&](int stage, int peak, const SlotLog& log, const Doubling& model,
                     const std::vector<float>& losses) {
                     EXPECT_EQ(peak, 0);
                     EXPECT_TRUE(log.forward[0].empty());
                     EXPECT_TRUE(model.gradients.empty());
                     if (stage + 1 == config.stages) {
                         EXPECT_EQ(losses.size(), size_t(config.micro_batches));
                     }
                 });
}

}  // namespace
}  // namespace plinth::test
