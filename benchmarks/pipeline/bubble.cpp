// SPDX-License-Identifier: Apache-2.0
// The bubble of each pipeline schedule as the runner makes it, beside the formula. Stages are
// threads that sleep for equal costs in place of computing, so that a machine of few cores has room
// for eight of them; what is measured is the order of passes and messages.
//   bubble [MILLISECONDS A PASS]      default 5; prints a Markdown table
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>

#include "core/autograd/scope.h"
#include "parallel/comm/threads.h"
#include "parallel/pipeline_parallel/check.h"
#include "parallel/pipeline_parallel/runner.h"
#include "tests/support/pipeline_chunks.h"

namespace plinth::parallel {
namespace {

using core::Tensor;
using Clock = std::chrono::steady_clock;

class NoGradients final : public GradientSlots {
  public:
    void begin_forward(size_t, int64_t) override {}
    void end_forward(size_t) override {}
    void begin_backward(size_t, int64_t) override {}
    void end_backward(size_t) override {}
    void progress() override {}
};

/// Sleeps for one unit in each of a chunk's three passes: forward, input half, weight half.
class SleepingStage {
  public:
    SleepingStage(const ScheduleConfig& config, int stage, CachingAllocator& memory,
                  std::chrono::microseconds unit)
        : chunks(test::chunks_of_stage(config, stage,
                                       [this](size_t, const Tensor& x) { return pass(x); })),
          memory_(memory),
          unit_(unit) {}

    std::vector<core::models::Chunk> chunks;

  private:
    Tensor pass(const Tensor& x) {
        std::this_thread::sleep_for(unit_);
        Tensor y = Tensor::of(std::vector<float>{1.0f}, {1}, memory_);
        core::Scope::current().tape()->record(
            "sleep", {&x}, {&y},
            [this](core::NodeGradients& node) {
                std::this_thread::sleep_for(unit_);
                if (node.wants_input(0))
                    node.set_input(0, Tensor::of(std::vector<float>{1.0f}, {1}, memory_));
            },
            [this](core::NodeGradients&) { std::this_thread::sleep_for(unit_); },
            /*has_parameters=*/true);
        return y;
    }

    CachingAllocator& memory_;
    std::chrono::microseconds unit_;
};

/// Seconds of one step, all stages together; the second of two.
double step_seconds(const ScheduleConfig& config, std::chrono::microseconds unit) {
    double seconds = 0.0;
    run_as_threads(config.stages, [&](Communicator& stages) {
        CachingAllocator memory(host_memory());
        Stream stream(1);
        SleepingStage model(config, stages.rank(), memory, unit);
        PipelineRunner runner(config, stages, memory);
        NoGradients gradients;
        std::vector<std::optional<int64_t>> slots;
        for (int i = 0; i < config.micro_batches; ++i)
            slots.emplace_back(i);
        const core::StepState state;
        for (int repeat = 0; repeat < 2; ++repeat) {
            stages.barrier("begin");
            const auto began = Clock::now();
            runner.run({.chunks = model.chunks,
                        .slots = slots,
                        .scope = {.stream = &stream, .allocator = &memory, .step = &state},
                        .batch =
                            [&](int64_t) {
                                core::Batch batch;
                                batch.tokens = Tensor::of(std::vector<float>{1.0f}, {1}, memory);
                                return batch;
                            },
                        .on_loss = [](int64_t, const core::ops::Loss&) {},
                        .gradients = &gradients});
            stages.barrier("end");
            if (stages.rank() == 0)
                seconds = std::chrono::duration<double>(Clock::now() - began).count();
        }
    });
    return seconds;
}

/// Seconds that the passes of one stage take by themselves: sleeps are longer than asked for.
double busy_seconds(const ScheduleConfig& config, std::chrono::microseconds unit) {
    ScheduleConfig alone = config;
    alone.stages = 1;
    alone.kind = ScheduleKind::one_f_one_b;
    alone.micro_batches *= config.chunks;
    alone.chunks = 1;
    return step_seconds(alone, unit);
}

}  // namespace
}  // namespace plinth::parallel

int main(int argc, char** argv) {
    using namespace plinth::parallel;
    const double milliseconds = argc > 1 ? std::atof(argv[1]) : 5.0;
    if (!(milliseconds > 0.0)) {
        std::fprintf(stderr, "bubble: '%s' is no number of milliseconds\n", argv[1]);
        return 2;
    }
    const std::chrono::microseconds unit(static_cast<int64_t>(milliseconds * 1000));
    std::printf(
        "| schedule | stages | chunks | micro-batches | bubble by the formula | measured |\n");
    std::printf("|---|---|---|---|---|---|\n");
    for (const int stages : {2, 4, 8})
        for (const auto& [kind, chunks] :
             {std::pair{ScheduleKind::gpipe, 1}, std::pair{ScheduleKind::one_f_one_b, 1},
              std::pair{ScheduleKind::interleaved, 2},
              std::pair{ScheduleKind::zero_bubble_h1, 1}}) {
            const ScheduleConfig config{kind, stages, 2 * stages, chunks};
            const ScheduleReport report = check_schedule(make_schedule(config));
            const auto busy = static_cast<double>(report.stages[0].busy);
            const double measured = step_seconds(config, unit) / busy_seconds(config, unit) - 1.0;
            std::printf("| %s | %d | %d | %d | %.1f %% | %.1f %% |\n",
                        std::string(name_of(kind)).c_str(), stages, chunks, config.micro_batches,
                        100.0 * static_cast<double>(report.bubble(0)) / busy, 100.0 * measured);
            std::fflush(stdout);
        }
    return 0;
}
