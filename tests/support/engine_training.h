// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "core/models/transformer.h"
#include "launch/build.h"
#include "launch/config/load.h"
#include "launch/engine.h"
#include "launch/stage_parts.h"
#include "parallel/comm/threads.h"
#include "parallel/data_parallel/lanes.h"

namespace plinth::test {

/// What a run of an Engine over thread ranks gives, for a comparison of bits.
struct EngineOutcome {
    std::vector<double> losses;
    std::vector<double> norms;
    std::map<std::string, std::vector<float>> weights;
    bool operator==(const EngineOutcome&) const = default;
};

/// Places where a mutant, or a test that looks closer, puts its hand, on every rank.
struct EngineHooks {
    /// The model of a rank's parts; empty: a transformer.
    std::function<std::unique_ptr<core::models::Model>(const launch::RunConfig&,
                                                       std::vector<core::models::Parts>)>
        model;
    /// After the weights were made.
    std::function<void(core::models::Model&, parallel::Communicator&)> start;
    std::function<void(core::models::Phase&)> phase;
    /// Which slot's samples a slot holds.
    std::function<int64_t(int64_t)> slot;
    std::function<void(launch::Session&, parallel::Groups&, core::models::Model&)> finish;
};

inline launch::RunConfig engine_config(const std::string& file,
                                       const std::vector<std::string>& overrides) {
    return launch::load<launch::RunConfig>(
        core::io::posix(), std::string(PLINTH_SOURCE_DIR) + "/configs/" + file, overrides);
}

/// Samples of one slot: tokens by the global number of the sample.
inline core::Batch engine_batch(const launch::RunConfig& config, int64_t step, int64_t slot,
                                CachingAllocator& allocator) {
    const int64_t rows = config.train.micro_batch, length = config.data.sequence_length;
    std::vector<int32_t> tokens, targets, positions;
    std::vector<int64_t> samples;
    for (int64_t row = 0; row < rows; ++row) {
        const int64_t sample = step * config.train.global_batch + slot * rows + row;
        samples.push_back(sample);
        const auto token = [&](int64_t t) {
            return static_cast<int32_t>((sample * 31 + t * t * 7 + t * (sample % 5)) %
                                        config.model.vocab_size);
        };
        for (int64_t t = 0; t < length; ++t) {
            tokens.push_back(token(t));
            targets.push_back((sample + t) % 11 == 0 ? core::Batch::ignored_target : token(t + 1));
            positions.push_back(static_cast<int32_t>(t));
        }
    }
    const Shape shape{rows, length};
    return {.tokens = core::Tensor::of(tokens, shape, allocator),
            .targets = core::Tensor::of(targets, shape, allocator),
            .positions = core::Tensor::of(positions, shape, allocator),
            .document_ids = {},
            .sample_ids = core::Tensor::of(samples, {rows}, allocator)};
}

/// One rank's training of `steps` steps; losses and norms are the same on all ranks.
inline EngineOutcome train_rank(const launch::RunConfig& config, parallel::Communicator& world,
                                int steps, const EngineHooks& hooks) {
    launch::Session session(world, 1);
    parallel::Groups groups(world, launch::mesh_config(config.parallel));
    auto parts = launch::stage_parts(config, groups.coordinate(parallel::Axis::pipeline));
    const std::unique_ptr<core::models::Model> model =
        hooks.model ? hooks.model(config, std::move(parts))
                    : std::make_unique<core::models::Transformer>(
                          launch::transformer_config(config), std::move(parts));
    launch::Engine engine(config, session, groups, *model);
    engine.initialize(7);
    if (hooks.start) hooks.start(*model, world);
    EngineOutcome outcome;
    core::StepState state{.seed = 7};
    const parallel::LanePlan plan{config.train.global_batch / config.train.micro_batch,
                                  config.train.lanes, groups.size(parallel::Axis::data)};
    for (int step = 0; step < steps; ++step) {
        state.step = step;
        core::models::Phase phase = model->phases().front();
        if (hooks.phase) hooks.phase(phase);
        parallel::StepScalars scalars(plan.slots, world);
        engine.run_micro_batches(
            phase, plan, state,
            [&](int64_t slot) {
                return engine_batch(config, step, hooks.slot ? hooks.slot(slot) : slot,
                                    session.allocator());
            },
            scalars);
        scalars.reduce(world);
        const launch::StepMeans means = engine.means(scalars);
        outcome.losses.push_back(means.loss);
        outcome.norms.push_back(means.gradient_norm);
        engine.update(means, 1e-2);
        engine.check_replicas(step);
    }
    for (core::Parameter* parameter : model->parameters().all())
        outcome.weights[parameter->name()] = parameter->master().values<float>();
    if (hooks.finish) hooks.finish(session, groups, *model);
    return outcome;
}

/// Over `parallel.data` x `parallel.pipeline` x ... thread ranks. Weights are those of all ranks
/// together; ranks that hold the same ones must agree.
inline EngineOutcome train_engine(const launch::RunConfig& config, int steps = 3,
                                  const EngineHooks& hooks = {}) {
    const launch::ParallelSection& p = config.parallel;
    std::mutex mutex;
    EngineOutcome all;
    parallel::run_as_threads(static_cast<int>(p.data * p.pipeline * p.context * p.tensor),
                             [&](parallel::Communicator& world) {
                                 const EngineOutcome mine = train_rank(config, world, steps, hooks);
                                 const std::lock_guard lock(mutex);
                                 if (all.losses.empty()) {
                                     all = mine;
                                     return;
                                 }
                                 CHECK(mine.losses == all.losses && mine.norms == all.norms,
                                       "rank {} has other losses or norms", world.rank());
                                 for (const auto& [name, values] : mine.weights) {
                                     const auto [place, is_new] = all.weights.emplace(name, values);
                                     CHECK(is_new || place->second == values,
                                           "rank {} has another {}", world.rank(), name);
                                 }
                             },
                             {.time_limit = std::chrono::seconds(60)});
    return all;
}

}  // namespace plinth::test
