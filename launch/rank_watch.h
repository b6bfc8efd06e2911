// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "launch/config/run_config.h"
#include "parallel/comm/heartbeat.h"

namespace plinth::launch {

/// Collective. Watches the ranks of a run while the result lives; null where run.hang_seconds is 0.
/// A report is printed on standard error and appended to hang_reports.rank-N.log in run.folder: a
/// rank that is cut off from mpirun cannot print. Without a folder only printed.
std::unique_ptr<parallel::Heartbeat> watch_ranks(parallel::Communicator& world,
                                                 const RunSection& run);

}  // namespace plinth::launch
