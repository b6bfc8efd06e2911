// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "core/tensor/tensor.h"
#include "kernels/dropout.h"

namespace plinth::core::ops {

/// Whether elements are lost: the scope is training and p is not 0.
bool drops(double p);

/// x with each element lost with probability p and the others divided by 1 - p; x itself where
/// none is lost. `place` names the spot in the model and samples[B] the global
/// samples: together with the run's seed and the step they decide which elements. x is [B, ...];
/// where it is a part of each sample only, `numbers` are those of its elements in the whole.
Tensor dropout(const Tensor& x, double p, const std::string& place, const Tensor& samples,
               const kernels::ElementNumbers& numbers = {});

/// residual + dropout(x): a residual connection in one pass.
Tensor dropout_add(const Tensor& residual, const Tensor& x, double p, const std::string& place,
                   const Tensor& samples, const kernels::ElementNumbers& numbers = {});

}  // namespace plinth::core::ops
