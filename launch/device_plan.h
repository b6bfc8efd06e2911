// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "core/models/model.h"
#include "launch/config/run_config.h"

namespace plinth::launch {

/// The GPU that a plan is made for.
struct PlannedDevice {
    std::string name;
    int capability = 0;  ///< 90 for compute capability 9.0
    int64_t memory_bytes = 0;
    bool is_assumed = false;  ///< this machine has none
};

/// The first GPU of this machine; where it has none that can be used, an H100.
PlannedDevice planned_device();

/// What CUDA, cuBLASLt and cuDNN take of a GPU's memory for a process, beside what they are asked
/// for: code, stacks, tables. An estimate: it depends on driver, card and the kernels in use.
inline constexpr int64_t device_context_estimate = int64_t{600} << 20;

/// Bytes of a rank's scratch on a GPU, by the calls that ask for the most. One buffer serves all
/// calls in turn and keeps the largest size (Queue::scratch), so that the sum is no matter. Norms,
/// column sums and cross-entropy ask for less than a product may.
struct ScratchPlan {
    int64_t products = 0;   ///< the library's workspace; where products add to gradients, the
                            ///< largest of those, on trial or finished apart
    int64_t attention = 0;  ///< backward: cuDNN's workspace, or a row for each query
    int64_t embedding = 0;  ///< backward: sorted tokens
    int64_t total() const;
};

/// Of a rank that holds these parts of the model.
ScratchPlan scratch_plan(const RunConfig& config, const std::vector<core::models::Parts>& chunks,
                         const PlannedDevice& device);

}  // namespace plinth::launch
