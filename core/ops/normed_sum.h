// SPDX-License-Identifier: Apache-2.0
// What the norms share that stand in a residual stream: sum = x + branch goes on, and y = norm(sum)
// goes into the next branch. One pass over memory makes both, and one the gradient of the sum.
#pragma once

#include "core/autograd/parameter.h"
#include "core/autograd/tape.h"
#include "core/tensor/tensor.h"

namespace plinth::core::ops {

/// sum is the tensor x itself where no branch is added to it.
struct NormedSum {
    Tensor sum, y;
};

/// A place for x + branch: x itself without a branch, which must have x's shape and dtype. `weight`
/// names the norm in the error.
Tensor place_for_sum(const Tensor& x, const Tensor& branch, const Parameter& weight);

/// Of a node with the inputs x and branch and the outputs sum and y, in its input half.
struct SumGradients {
    /// Takes the gradient that comes to sum. If none comes to y, hands it on: there is nothing left
    /// to compute.
    explicit SumGradients(NodeGradients& gradients);
    /// Hands over dx, which is the gradient of both inputs.
    void finish(NodeGradients& gradients);

    Tensor dsum;  ///< undefined where the sum goes nowhere else, or where nobody wants dx
    Tensor
        dx;  ///< to be written, undefined where nobody wants it; dsum's memory where that is free
};

}  // namespace plinth::core::ops
