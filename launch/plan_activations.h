// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "core/models/model.h"
#include "launch/config/run_config.h"
#include "parallel/pipeline_parallel/compute_order.h"

namespace plinth::launch {

/// What the forward passes keep for the backward passes, and the larger of what the head and the
/// backward pass of the last block, which may run again, need beside it, where most is kept in the
/// stage's `order` of passes. Stage s of zero_bubble puts off the weight halves of s micro-batches,
/// and is in the input half of one more.
int64_t activation_bytes(const RunConfig& config, const std::vector<core::models::Parts>& chunks,
                         int stage, const std::vector<parallel::Compute>& order);

/// Of the same rank, that wait in host memory with train.offload_activations.
int64_t offloaded_activation_bytes(const RunConfig& config,
                                   const std::vector<core::models::Parts>& chunks, int stage,
                                   const std::vector<parallel::Compute>& order);

}  // namespace plinth::launch
