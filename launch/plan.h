// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <functional>
#include <string>
#include <vector>

#include "launch/config/run_config.h"

namespace plinth::launch {

/// Bytes that one rank needs, by what they are for. Activations are those at the peak: of one
/// micro-batch at the end of its forward pass, or of all that a pipeline stage has under way.
struct MemoryPlan {
    int64_t weights = 0;
    int64_t gradients = 0;
    int64_t optimizer = 0;
    int64_t activations = 0;
    /// Of sums of gradients over tensor and context groups, in the allocator and staged by the
    /// communicator: at the end of a step, when there are no activations.
    int64_t sums = 0;
    int64_t scratch = 0;  ///< of kernels and libraries on a GPU
    /// Of optimizer.offload, beside a GPU in the host's memory: states, and blocks through which
    /// copies go, which are pinned there.
    int64_t offloaded = 0, blocks = 0;
    /// Of train.offload_activations, pinned there.
    int64_t offloaded_activations = 0;
    int64_t staging = 0;  ///< of saves beside the training; beside a GPU in the host's memory
    /// Where the model computes.
    int64_t computing() const {
        return weights + gradients + optimizer + std::max(activations, sums) + scratch;
    }
    /// Beside a GPU.
    int64_t on_host() const { return offloaded + blocks + offloaded_activations + staging; }
    int64_t total() const { return computing() + on_host(); }
};

/// Bytes that a rank sends to others in a step.
struct TrafficPlan {
    int64_t gradients = 0;
    int64_t weights = 0;
    int64_t activations = 0;  ///< between the stages of a pipeline, their gradients included
    int64_t tensor = 0;       ///< to its tensor group
    int64_t context = 0;      ///< to its context group: keys, values and their gradients; gradients
    int64_t total() const { return gradients + weights + activations + tensor + context; }
};

/// Where a rank stands; those of a context group send alike.
struct MeshPlace {
    int stage = 0, data = 0, tensor = 0;
};

/// To within the few elements by which the parts of a sum over a tensor or context group differ.
TrafficPlan traffic_plan(const RunConfig& config, int64_t ranks, const MeshPlace& place);
/// On average over the ranks of one stage that hold most of their tensor group.
TrafficPlan traffic_plan(const RunConfig& config, int64_t ranks, int stage);
/// On average over the stages.
TrafficPlan traffic_plan(const RunConfig& config, int64_t ranks);

/// Called again and again while a plan is made, for each data-parallel rank; what it throws ends
/// the plan. Empty: nothing.
using PlanProgress = std::function<void()>;
/// Of the fullest rank of one pipeline stage.
MemoryPlan memory_plan(const RunConfig& config, int64_t ranks, int stage,
                       const PlanProgress& progress = {});
/// Of the stage that needs the most.
MemoryPlan memory_plan(const RunConfig& config, int64_t ranks);

/// Into how many buckets the gradients of a rank are cut, by pipeline stage.
std::vector<size_t> bucket_counts(const RunConfig& config);

/// What `--dry-run` of a training run prints: the resolved configuration, parameters, memory a
/// rank, steps, tokens, lanes and idle share.
std::string plan_text(const RunConfig& config, int64_t ranks);

}  // namespace plinth::launch
