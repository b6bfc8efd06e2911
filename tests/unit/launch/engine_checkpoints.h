// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include "checkpoints/restore.h"
#include "checkpoints/writer.h"
#include "parallel/comm/ranks_of.h"
#include "tests/unit/launch/engine_runs.h"

// Checkpoints of an EngineRun: collective over its ranks.
namespace plinth::launch::test {

inline constexpr const char* root = "run";

inline void save(EngineRank& rank, core::io::FileSystem& files) {
    parallel::RanksOf ranks(rank.session.world());
    checkpoints::Writer writer(files, ranks, {.node = "node"});
    checkpoints::SaveRequest request{.root = root,
                                     .run_id = "00112233445566778899aabbccddeeff",
                                     .step = rank.step.step,
                                     .manifest = {},
                                     .tensors = {}};
    const auto state = rank.engine.state();
    request.tensors = state;
    request.manifest.counters = {{"steps", rank.step.step},
                                 {"updates", rank.engine.update_count()}};
    const auto outcome = writer.save(request);
    CHECK(outcome.committed, "{}", outcome.message);
}

inline void restore(EngineRank& rank, core::io::FileSystem& files,
                    const checkpoints::LoadOptions& options = {}) {
    parallel::RanksOf ranks(rank.session.world());
    const auto restored = checkpoints::restore_newest(
        files, ranks, root, rank.engine.state(), [](const auto& line) { ADD_FAILURE() << line; },
        options);
    CHECK(restored.has_value(), "no checkpoint");
    rank.engine.weights_changed();
    rank.step.step = restored->manifest.counter("steps");
    rank.engine.set_update_count(restored->manifest.counter("updates"));
}

}  // namespace plinth::launch::test
