// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>

#include "core/optim/gradients.h"
#include "core/ranks.h"
#include "kernels/runtime/stream.h"

namespace plinth::core::optim {

/// Exact sum of the squares of `mine`: i64, as kernels::exact_sum_of_blocks gives it. Part of the
/// stream's work.
Tensor sum_of_squares(std::span<const ParameterGradient> mine, CachingAllocator& allocator,
                      Stream& stream);

/// Collective. L2 norm of the gradients that the ranks give together: each element is in one rank's
/// `mine`. Double sums of squares of 1,024-element blocks, added exactly, so that the result does
/// not depend on who gives what. NaN on every rank when any element is not finite.
double gradient_norm(std::span<const ParameterGradient> mine, Ranks& ranks,
                     CachingAllocator& allocator, Stream& stream);

}  // namespace plinth::core::optim
