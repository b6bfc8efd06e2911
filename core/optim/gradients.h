// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/autograd/parameter.h"

namespace plinth::core::optim {

/// The finished gradient of consecutive elements of a parameter's local memory, fp32 and
/// contiguous: the sum over the global batch, over all uses, not yet divided by the global weight.
struct ParameterGradient {
    Parameter* parameter = nullptr;
    View gradient;
    int64_t begin = 0;  ///< a multiple of 1,024: the blocks of the norm stay what they are
};

}  // namespace plinth::core::optim
