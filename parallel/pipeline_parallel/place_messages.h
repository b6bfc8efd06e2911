// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "parallel/pipeline_parallel/compute_order.h"
#include "parallel/pipeline_parallel/schedule.h"

namespace plinth::parallel {

/// Puts sends and receives into the computations' order, so that even sends that block until they
/// are received cannot deadlock: the computations are laid out on one clock (unit costs, messages
/// take no time), a message has the time at which its tensor is made, and every stage lists its
/// computations by the time they start and its messages by theirs, messages first. All lists then
/// follow one common order, and of all actions not yet done the first one can always proceed.
///
/// A send follows its computation directly. A receive may stand long before the computation that
/// needs it: its sender must not wait. Neighbouring sends and receives become one exchange, which
/// demands less. An order that waits for itself is an internal error.
std::vector<std::vector<Action>> place_messages(const ScheduleConfig& config,
                                                const ComputeOrders& orders);

}  // namespace plinth::parallel
