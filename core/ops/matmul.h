// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/autograd/parameter.h"
#include "core/tensor/tensor.h"

namespace plinth::core::ops {

/// A weight as one place of the model uses it.
struct WeightUse {
    Parameter& parameter;
    int use = 0;  ///< index from Parameter::add_use
};

/// y[..., N] = x[..., K] weight[N, K]^T (+ bias[N]) in the scope's compute dtype.
/// Backward: dx = dy weight; dweight = dy^T x; dbias = column sums of dy.
Tensor linear(const Tensor& x, WeightUse weight, Parameter* bias = nullptr);

}  // namespace plinth::core::ops
