// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "parallel/pipeline_parallel/schedule.h"

namespace plinth::parallel {

/// Time of one micro-batch in one chunk, in any unit. A whole backward pass takes both halves.
struct PassCosts {
    int64_t forward = 1;
    int64_t input_grad = 1;
    int64_t weight_grad = 1;
};

struct StageReport {
    int64_t busy = 0;  ///< time it computes
    /// Most (micro-batch, chunk) pairs between their forward pass and their weight half.
    int peak_activations = 0;
    /// Most tensors received and not used yet.
    int peak_waiting = 0;
};

struct ScheduleReport {
    /// Length of the step if messages take no time and move beside the computation: a computation
    /// waits for its inputs alone. The published bubbles are meant like this.
    int64_t makespan = 0;
    /// The same if a stage stands still in each exchange until its peer has come to it.
    int64_t blocking_makespan = 0;
    std::vector<StageReport> stages;

    /// Time in which the stage does not compute.
    int64_t bubble(int stage) const { return makespan - stages[static_cast<size_t>(stage)].busy; }
};

/// Executes the schedule under synchronous sends: a send is done only when its receive is reached.
/// A stage's list is sequential and each receive names its sender, so a message that can pass can
/// pass until it does, and one greedy execution stands for all. Buffered sends only do more.
///
/// Proves that every pass of every micro-batch and chunk runs exactly once and after what it needs,
/// that each chunk runs each kind of half in micro-batch order, that messages carry what the other
/// side expects, and that all lists come to their end. Otherwise throws an error of kind internal
/// that names stage and action; a deadlock names where every stage stands.
ScheduleReport check_schedule(const Schedule& schedule, const PassCosts& costs = {});

}  // namespace plinth::parallel
