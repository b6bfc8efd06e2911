// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "core/inference/decoder.h"
#include "launch/build.h"
#include "launch/engine.h"
#include "parallel/comm/threads.h"
#include "tests/unit/launch/tiny_models.h"

namespace plinth::test {

/// What `ranks` ranks, which hold one copy of the model together, write after the same prompts,
/// rank by rank.
inline std::vector<std::vector<std::vector<int32_t>>> written_texts(RunConfig config, int ranks) {
    config.model.init_std = 0.25;  // spread logits: rounding decides no token
    config.parallel.data = 1;
    std::vector<std::vector<std::vector<int32_t>>> all(static_cast<size_t>(ranks));
    parallel::run_as_threads(ranks, [&](parallel::Communicator& world) {
        launch::Session session(world, 1);
        parallel::Groups groups(world, launch::mesh_config(config.parallel));
        const auto model = launch::language_model(config, groups);
        Engine engine(config, session, groups, *model);
        engine.initialize(5);
        const core::Scope scope(session.scope(DType::f32));
        all[static_cast<size_t>(world.rank())] = core::inference::decode(
            dynamic_cast<const core::models::Transformer&>(*model), {{3}, {1, 2, 3, 4, 5}},
            {.max_tokens = 10, .choice = {.temperature = 0.8, .top_k = 10, .seed = 1}});
    });
    return all;
}

}  // namespace plinth::test
