// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "launch/micro_batch_graphs.h"
#include "parallel/comm/threads.h"
#include "tests/support/late_queue.h"
#include "tests/unit/launch/engine_runs.h"

// Training steps whose results the host learns late, over a queue that does its work when it is
// waited for.
namespace plinth::launch::test {

struct LateRun {
    EngineRun run;
    int64_t updates = 0;
    std::string fp8_history;
    size_t graphs = 0;  ///< captured by the first rank
    int64_t launches = 0;
    std::vector<int64_t> blocks;  ///< that the memory of graphs had taken after each step
};

using BeforeEnd = std::function<void(EngineRank&, int step)>;
using WithRank = std::function<void(EngineRank&)>;

struct LateOptions {
    int steps = 5;
    int ranks = 1;
    bool on_device = true;  ///< which decides whether a step counts
    size_t ahead = 1;       ///< steps that end before the host asks for the means of the first
    std::vector<int64_t> batches = {};  ///< of each step in turn; empty: as many as ever
    BeforeEnd before_end = {};
    WithRank begin = {};  ///< in place of fresh weights
    WithRank end = {};    ///< when all steps' means were taken
    /// A mutant: the engine takes each step for the first, as captured work would that keeps the
    /// step by which random numbers are keyed.
    bool step_is_kept = false;
};

/// One rank of it: trains as a training does.
inline void run_late_rank(EngineRank& rank, const LateOptions& options, LateRun& found) {
    parallel::Communicator& world = rank.session.world();
    if (!options.begin) rank.engine.initialize(rank.step.seed);
    if (options.on_device) {
        rank.engine.decide_on_device();
        CHECK(rank.engine.decides_on_device(), "the device does not decide");
    }
    if (options.begin) options.begin(rank);
    size_t pending = 0;
    const auto take = [&] {
        const std::optional<StepMeans> means = rank.engine.take_means(/*waits=*/true);
        if (!means) return false;
        found.run.losses.push_back(means->loss);
        found.run.norms.push_back(std::isnan(means->gradient_norm) ? -1.0 : means->gradient_norm);
        --pending;
        return true;
    };
    for (int step = 0; step < options.steps; ++step) {
        if (const auto& batches = options.batches; !batches.empty())
            rank.config.train.global_batch = batches[static_cast<size_t>(step) % batches.size()];
        parallel::StepScalars scalars(options.on_device ? 0 : rank.plan().slots, world);
        core::StepState state = rank.step;
        if (options.step_is_kept) state.step = 0;
        rank.engine.run_micro_batches(
            rank.model->phases().front(), rank.plan(), state,
            [&](int64_t slot) { return rank.batch(slot); }, scalars);
        scalars.reduce(world);
        if (options.before_end) options.before_end(rank, step);
        rank.engine.end_step(scalars, 1e-2 / (1.0 + static_cast<double>(rank.step.step)));
        if (rank.engine.graphs()) found.blocks.push_back(rank.engine.graphs()->arena().use().taken);
        ++rank.step.step;
        ++pending;
        while (pending > options.ahead)
            CHECK(take(), "a step without means");
    }
    while (take()) {
    }
    if (options.end) options.end(rank);
    found.updates = rank.engine.update_count();
    found.fp8_history = rank.engine.fp8_history();
    if (const MicroBatchGraphs* graphs = rank.engine.graphs()) {
        found.graphs = graphs->graphs();
        found.launches = graphs->launches();
    }
}

/// What the first rank found, with the state of all.
inline LateRun run_late(const RunConfig& config, const LateOptions& options) {
    LateRun first;
    EngineRun together;
    std::mutex mutex;
    parallel::run_as_threads(options.ranks, [&](parallel::Communicator& world) {
        EngineRank rank(config, world);
        std::vector<plinth::test::QueueCall> calls;
        rank.session.stream().set_queue(std::make_unique<plinth::test::LateQueue>(calls));
        LateRun found;
        run_late_rank(rank, options, found);
        const std::lock_guard lock(mutex);
        collect(rank, together);
        if (world.rank() == 0) first = std::move(found);
    });
    first.run.state = std::move(together.state);
    first.run.holders = std::move(together.holders);
    return first;
}

/// A gradient that is not finite in these steps.
inline BeforeEnd spoiling(std::set<int> steps) {
    return [steps = std::move(steps)](EngineRank& rank, int step) {
        if (!steps.contains(step)) return;
        static_cast<float*>(rank.engine.gradients().back().data)[0] = std::nanf("");
    };
}

}  // namespace plinth::launch::test
