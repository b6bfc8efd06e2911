// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <string>

#include "core/optim/gradients.h"
#include "kernels/runtime/stream.h"
#include "parallel/comm/communicator.h"

namespace plinth::parallel {

/// Collective. Each gradient becomes the sum of the ranks' of the group, folded in rank order. All
/// ranks give the same parameters. About `bytes_at_once` travel in one collective, by way of as
/// much memory; at least one gradient.
void sum_gradients(std::span<const core::optim::ParameterGradient> gradients, Communicator& group,
                   const std::string& label, CachingAllocator& allocator, Stream& stream,
                   int64_t bytes_at_once = int64_t{16} << 20);

}  // namespace plinth::parallel
