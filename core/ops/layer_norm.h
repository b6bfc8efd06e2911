// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/ops/normed_sum.h"

namespace plinth::core::ops {

/// y = (x - mean) / sqrt(var + eps) weight + bias over the last dim, in x's dtype; statistics,
/// weight and bias are fp32. `bias` may be null; both are used once.
Tensor layer_norm(const Tensor& x, Parameter& weight, Parameter* bias, double eps);

/// The same of x + branch, or of x where branch is undefined: the bits of `add` and `layer_norm`.
NormedSum layer_norm_of_sum(const Tensor& x, const Tensor& branch, Parameter& weight,
                            Parameter* bias, double eps);

}  // namespace plinth::core::ops
