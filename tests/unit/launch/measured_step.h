// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <mutex>
#include <string>
#include <vector>

#include "launch/build.h"
#include "launch/config/load.h"
#include "launch/engine.h"
#include "launch/layouts.h"
#include "launch/plan.h"
#include "parallel/comm/threads.h"
#include "tests/support/altered_group.h"
#include "tests/unit/launch/tiny_models.h"

namespace plinth::test {

/// Tokens 0, 1, 2, ... of one micro-batch.
inline core::Batch counting_batch(const RunConfig& config, int64_t slot, CachingAllocator& memory) {
    const int64_t B = config.train.micro_batch, T = config.data.sequence_length;
    std::vector<int32_t> tokens, positions;
    std::vector<int64_t> samples;
    for (int64_t b = 0; b < B; ++b) {
        samples.push_back(slot * B + b);
        for (int64_t t = 0; t < T; ++t) {
            tokens.push_back(static_cast<int32_t>((b * T + t) % config.model.vocab_size));
            positions.push_back(static_cast<int32_t>(t));
        }
    }
    return {.tokens = core::Tensor::of(tokens, {B, T}, memory),
            .targets = core::Tensor::of(tokens, {B, T}, memory),
            .positions = core::Tensor::of(positions, {B, T}, memory),
            .document_ids = {},
            .sample_ids = core::Tensor::of(samples, {B}, memory)};
}

/// What the rank that sends the most sends in the passes of a step, and the largest peak of memory
/// over all of it.
struct Measured {
    int64_t bytes_sent = 0, peak = 0;
};

/// Of a layout without data parallel ranks.
inline Measured measure_step(const launch::Layout& layout) {
    const RunConfig& config = layout.config;
    std::mutex mutex;
    Measured measured;
    parallel::run_as_threads(layout.ranks, [&](parallel::Communicator& sound) {
        AlteredGroup world(sound, [](const std::string&, const auto&) {});
        launch::Session session(world, 1);
        parallel::Groups groups(world, launch::mesh_config(config.parallel));
        const auto model = launch::language_model(config, groups);
        Engine engine(config, session, groups, *model);
        engine.initialize(5);
        engine.decide_on_device();
        const int64_t slots = config.train.global_batch / config.train.micro_batch;
        parallel::StepScalars scalars(engine.decides_on_device() ? 0 : slots, world);
        const int64_t before = world.bytes_sent();
        engine.run_micro_batches(
            model->phases().front(), {slots, config.train.lanes, 1}, {.seed = 3},
            [&](int64_t slot) { return counting_batch(config, slot, session.allocator()); },
            scalars);
        const int64_t sent = world.bytes_sent() - before;
        scalars.reduce(world);
        engine.end_step(scalars, 1e-3);
        engine.take_means(/*waits=*/true);
        const std::lock_guard lock(mutex);
        measured.bytes_sent = std::max(measured.bytes_sent, sent);
        measured.peak =
            std::max(measured.peak, static_cast<int64_t>(session.allocator().use().peak));
    });
    return measured;
}

/// A step over 2 and 4 ranks of one axis sends what the plan says of them, within `slack` bytes,
/// with each way to recompute and each dtype.
inline void expect_planned_traffic(const std::vector<RunConfig>& models,
                                   int64_t launch::ParallelSection::*axis,
                                   int64_t launch::TrafficPlan::*sent, double slack) {
    using launch::Recompute;
    for (RunConfig config : models)
        for (const Recompute recompute :
             {Recompute::none, Recompute::norms, Recompute::selective, Recompute::full})
            for (const ComputeType dtype : {ComputeType::fp32, ComputeType::bf16})
                for (const int ranks : {2, 4}) {
                    config.train.recompute = recompute;
                    config.train.dtype = dtype;
                    config.parallel.*axis = ranks;
                    const launch::Layout layout = launch::layout_of(config, ranks);
                    EXPECT_NEAR(
                        static_cast<double>(measure_step(layout).bytes_sent),
                        static_cast<double>(launch::traffic_plan(layout.config, ranks).*sent),
                        slack)
                        << ranks;
                }
}

/// The plan's peak of memory is that of a step, within 5 %: for a configuration of configs/ with
/// `overrides`, which name the layout, with each way to recompute and each dtype.
inline void expect_planned_peak(const std::string& file, const std::vector<std::string>& overrides,
                                int ranks) {
    for (const char* recompute : {"none", "norms", "selective", "full"})
        for (const char* dtype : {"fp32", "bf16"}) {
            std::vector<std::string> words = overrides;
            words.push_back(fmt::format("train.recompute={}", recompute));
            words.push_back(fmt::format("train.dtype={}", dtype));
            const auto config = launch::load<RunConfig>(
                core::io::posix(), std::string(PLINTH_SOURCE_DIR) + "/configs/" + file, words);
            const launch::Layout layout = launch::layout_of(config, ranks);
            const launch::MemoryPlan plan = launch::memory_plan(layout.config, ranks);
            const auto peak = static_cast<double>(measure_step(layout).peak);
            EXPECT_NEAR(static_cast<double>(plan.total()) / peak, 1.0, 0.05)
                << file << " " << fmt::format("{}", fmt::join(words, " ")) << ": measured " << peak
                << ", weights " << plan.weights << ", gradients " << plan.gradients
                << ", optimizer " << plan.optimizer << ", activations " << plan.activations;
        }
}

}  // namespace plinth::test
