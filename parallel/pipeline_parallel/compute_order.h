// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "parallel/pipeline_parallel/schedule.h"

namespace plinth::parallel {

/// What each stage computes, in order and without messages, by stage.
using ComputeOrders = std::vector<std::vector<Compute>>;

/// The order of one stage as the schedule's paper defines it. `config` is valid.
///
/// The interleaved schedule goes through its chunks in groups of P micro-batches. Where P does not
/// divide M there are floor(M / P) groups, as equal as can be and the larger ones first: the bubble
/// stays as published, and the activations of (V - 1) x (ceil(M / groups) - P) more micro-batches
/// are alive. Groups smaller than P would stall at each change of chunks. With fewer micro-batches
/// than stages that cannot be avoided.
std::vector<Compute> compute_order(const ScheduleConfig& config, int stage);

}  // namespace plinth::parallel
