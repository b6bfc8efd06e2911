// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/models/transformer.h"
#include "core/optim/adamw.h"
#include "core/optim/schedule.h"
#include "launch/config/run_config.h"

namespace plinth::launch {

/// From configuration sections, which are resolved and validated, to the objects they describe.
core::models::TransformerConfig transformer_config(const ModelSection& model);
core::models::TransformerConfig transformer_config(const RunConfig& config);
parallel::MeshConfig mesh_config(const ParallelSection& parallel);
core::optim::AdamWConfig adamw_config(const OptimizerSection& optimizer);
core::optim::Schedule learning_rate_schedule(const OptimizerSection& optimizer,
                                             int64_t total_steps);

}  // namespace plinth::launch
