// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>

#include "core/optim/gradients.h"
#include "kernels/runtime/stream.h"

namespace plinth::core::optim {

/// L2 norm of the gradients, counted once whatever the layout: double sums of squares of
/// 1,024-element blocks, added exactly. NaN when any element is not finite.
double gradient_norm(std::span<const ParameterGradient> gradients, CachingAllocator& allocator,
                     Stream& stream);

}  // namespace plinth::core::optim
