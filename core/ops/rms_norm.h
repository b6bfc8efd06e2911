// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/ops/normed_sum.h"

namespace plinth::core::ops {

/// y[..., D] = x / sqrt(mean(x^2) + eps) * weight[D].
Tensor rms_norm(const Tensor& x, Parameter& weight, double eps);

/// The same of x + branch, or of x where branch is undefined: the bits of `add` and `rms_norm`.
NormedSum rms_norm_of_sum(const Tensor& x, const Tensor& branch, Parameter& weight, double eps);

}  // namespace plinth::core::ops
