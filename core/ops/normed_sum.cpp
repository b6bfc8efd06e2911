// SPDX-License-Identifier: Apache-2.0
#include "core/ops/normed_sum.h"

#include "core/autograd/scope.h"

namespace plinth::core::ops {

Tensor place_for_sum(const Tensor& x, const Tensor& branch, const Parameter& weight) {
    if (!branch.defined()) return x;
    CHECK(x.shape() == branch.shape() && x.dtype() == branch.dtype(), "{}: a sum of {} and {}",
          weight.name(), x.shape().text(), branch.shape().text());
    return Scope::current().empty(x.shape(), x.dtype());
}

SumGradients::SumGradients(NodeGradients& gradients) {
    if (!gradients.wants_input(0) && !gradients.wants_input(1)) return;
    dsum = gradients.take_output(0);
    const Tensor& dy = gradients.of_output(1);
    if (!dy.defined()) {
        dx = std::move(dsum);
        finish(gradients);
        return;
    }
    const bool is_free = dsum.defined() && dsum.is_sole_owner();
    dx = is_free ? dsum : Scope::current().empty(dy.shape(), dy.dtype());
}

void SumGradients::finish(NodeGradients& gradients) {
    for (size_t input : {0u, 1u})
        if (gradients.wants_input(input)) gradients.set_input(input, dx);
}

}  // namespace plinth::core::ops
