// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/autograd/parameter.h"

namespace plinth::core::optim {

/// A parameter and its finished gradient, fp32 with the parameter's local shape: the sum over the
/// global batch, over all uses, not yet divided by the global weight.
struct ParameterGradient {
    Parameter* parameter = nullptr;
    View gradient;
};

}  // namespace plinth::core::optim
