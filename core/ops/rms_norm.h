// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/autograd/parameter.h"
#include "core/tensor/tensor.h"

namespace plinth::core::ops {

/// y[..., D] = x / sqrt(mean(x^2) + eps) * weight[D].
Tensor rms_norm(const Tensor& x, Parameter& weight, double eps);

}  // namespace plinth::core::ops
