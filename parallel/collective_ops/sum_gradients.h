// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <string>

#include "core/optim/gradients.h"
#include "kernels/runtime/stream.h"
#include "parallel/comm/communicator.h"

namespace plinth::parallel {

/// Of fp32, in one collective of sum_gradients.
inline constexpr int64_t bytes_summed_at_once = int64_t{16} << 20;

/// Collective. Each gradient becomes the sum of the ranks' of the group, folded in rank order, in
/// which cuts change no bit. All ranks give the same parameters. No more than `bytes_at_once`, but
/// at least one element, travel in one collective, by way of as much memory of the allocator's; the
/// communicator stages as much again.
void sum_gradients(std::span<const core::optim::ParameterGradient> gradients, Communicator& group,
                   const std::string& label, CachingAllocator& allocator, Stream& stream,
                   int64_t bytes_at_once = bytes_summed_at_once);

}  // namespace plinth::parallel
