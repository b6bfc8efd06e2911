// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "core/models/model.h"
#include "launch/config/run_config.h"
#include "parallel/pipeline_parallel/stages.h"

namespace plinth::launch {

/// FLOPs a token of the model's parts, forward, by which the stages are cut.
parallel::PartCosts part_costs(const ModelSection& model, int64_t sequence_length);

/// What each virtual stage computes, in model order: parallel.stage_layers, or cut by cost. The
/// configuration is resolved and validated for its world.
std::vector<parallel::StageParts> all_stage_parts(const RunConfig& config);

/// The chunks of one stage of the pipeline, in model order; the whole model where there is one.
std::vector<core::models::Parts> stage_parts(const RunConfig& config, int stage);

}  // namespace plinth::launch
