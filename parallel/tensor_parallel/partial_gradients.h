// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>

#include "core/optim/gradients.h"
#include "kernels/runtime/stream.h"
#include "parallel/comm/communicator.h"

namespace plinth::parallel {

/// Collective over a tensor group. Each gradient of a parameter whose gradients are partial (norms,
/// biases behind a sum, positions) becomes the sum of the ranks', folded in rank order; the others
/// stay. All ranks give the same parameters. One collective.
void sum_partial_gradients(std::span<const core::optim::ParameterGradient> gradients,
                           Communicator& group, CachingAllocator& allocator, Stream& stream);

}  // namespace plinth::parallel
