// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "core/ranks.h"
#include "launch/config/run_config.h"

namespace plinth::launch {

/// Whether a run keeps in host memory what its device would hold.
bool offloads(const RunConfig& config);

/// What one rank asks of its machine.
struct HostShare {
    std::string machine;  ///< its name
    int64_t needed = 0;   ///< bytes, see MemoryPlan::on_host
    /// Bytes there before any rank has taken its share; none: unknown.
    std::optional<int64_t> free;
};

/// Collective. Refuses a run (kind io) whose ranks on one machine together need more host memory
/// than is free there, by key and rank, with the bytes needed and free.
void require_host_memory(const RunConfig& config, core::Ranks& ranks, const HostShare& mine);

}  // namespace plinth::launch
