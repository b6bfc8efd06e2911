// SPDX-License-Identifier: Apache-2.0
#include "core/ops/add.h"

#include "core/autograd/scope.h"
#include "core/tensor/shapes.h"
#include "kernels/add.h"
#include "kernels/matmul.h"

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

Tensor add_bias(const Tensor& x, Parameter& bias) {
    Scope& scope = Scope::current();
    CHECK(bias.local_shape() == Shape({x.dim(-1)}), "{}: input {} does not fit {}", bias.name(),
          x.shape().text(), bias.local_shape().text());
    Tensor y = scope.empty(x.shape(), x.dtype());
    kernels::add_row(y.out(), x.in(), bias.acquire(DType::f32).in(), scope.stream());
    bias.release();
    if (scope.tape())
        scope.tape()->record(
            "add_bias", {&x}, {&y},
            [](NodeGradients& gradients) {
                if (gradients.wants_input(0)) gradients.set_input(0, gradients.of_output(0));
            },
            [&bias](NodeGradients& gradients) {
                const Tensor dy = as_matrix(gradients.of_output(0));
                bias.add_gradient(0, [&](View dbias) {
                    kernels::column_sum(dbias, dy.in(), Scope::current().stream());
                });
            },
            /*has_parameters=*/true);
    return y;
}

}  // namespace plinth::core::ops
