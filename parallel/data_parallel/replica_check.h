// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>

#include "core/tensor/shard.h"
#include "parallel/comm/communicator.h"

namespace plinth::parallel {

/// Compares tensors that should be equal on every rank by their hashes; `step` appears in the
/// message. A difference throws, on every rank, an error of kind ranks that names the tensor, the
/// ranks that differ from the majority and their hosts: memory or a network has flipped bits, or
/// ranks run different programs. Collective; hashing reads all bytes once.
void check_replicas(std::span<const core::StateTensor> tensors, Communicator& communicator,
                    int64_t step);

}  // namespace plinth::parallel
