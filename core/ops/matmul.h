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

/// y[..., N] = x[..., K] weight[N, K]^T (+ bias[N]) in the scope's compute dtype, or with operands
/// in 8 bits where the weight takes them and the scope has them (core/ops/fp8.h).
/// Backward: dx = dy weight; dweight = dy^T x; dbias = column sums of dy.
Tensor linear(const Tensor& x, WeightUse weight, Parameter* bias = nullptr);

/// The parts of `linear`, unrecorded, for ops that have it in them.
Tensor linear_forward(const Tensor& x, Parameter& weight, Parameter* bias);
/// dx in that shape.
Tensor linear_input_gradient(const Tensor& dy, Parameter& weight, const Shape& x_shape);
void add_linear_weight_gradients(const Tensor& dy, const Tensor& x, WeightUse weight,
                                 Parameter* bias);
/// Column sums of dy; nothing without a bias.
void add_bias_gradient(const Tensor& dy, Parameter* bias);
/// Throws an internal error that names the weight unless x[..., K] fits weight[N, K].
void check_linear(const Tensor& x, const Parameter& weight);

}  // namespace plinth::core::ops
