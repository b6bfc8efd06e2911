// SPDX-License-Identifier: Apache-2.0
#include "core/ops/add.h"

#include "core/autograd/scope.h"
#include "kernels/add.h"

namespace plinth::core::ops {

Tensor add(const Tensor& a, const Tensor& b) {
    Scope& scope = Scope::current();
    CHECK(a.shape() == b.shape() && a.dtype() == b.dtype(), "add of {} and {}", a.shape().text(),
          b.shape().text());
    Tensor y = scope.empty(a.shape(), a.dtype());
    kernels::add(y.out(), a.in(), b.in(), scope.stream());
    if (scope.tape())
        scope.tape()->record("add", {&a, &b}, {&y}, [](NodeGradients& gradients) {
            for (size_t i : {0u, 1u})
                if (gradients.wants_input(i)) gradients.set_input(i, gradients.of_output(0));
        });
    return y;
}

}  // namespace plinth::core::ops
