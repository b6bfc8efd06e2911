// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "core/models/classifier.h"
#include "core/optim/adamw.h"
#include "core/optim/schedule.h"
#include "launch/config/run_config.h"
#include "parallel/comm/groups.h"
#include "parallel/mesh.h"
#include "parallel/pipeline_parallel/schedule.h"

namespace plinth::launch {

/// From configuration sections, which are resolved and validated, to the objects they describe.
core::models::TransformerConfig transformer_config(const ModelSection& model);
core::models::TransformerConfig transformer_config(const RunConfig& config);
/// This rank's part of the language model in the run's layout; parameters without storage.
std::unique_ptr<core::models::Transformer> language_model(const RunConfig& config,
                                                          const parallel::Groups& groups);
/// The same for a model with a head over classes.
std::unique_ptr<core::models::Classifier> classifier(const RunConfig& config, int64_t classes,
                                                     const parallel::Groups& groups);
parallel::MeshConfig mesh_config(const ParallelSection& parallel);
/// Its number of micro-batches is that of a step, not set here.
parallel::ScheduleConfig schedule_config(const ParallelSection& parallel);
core::optim::AdamWConfig adamw_config(const RunConfig& config);
core::optim::Schedule learning_rate_schedule(const OptimizerSection& optimizer,
                                             int64_t total_steps);

}  // namespace plinth::launch
