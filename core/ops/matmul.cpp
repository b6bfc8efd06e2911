// SPDX-License-Identifier: Apache-2.0
#include "core/ops/matmul.h"

#include "core/autograd/scope.h"
#include "core/tensor/shapes.h"
#include "kernels/matmul.h"

namespace plinth::core::ops {

namespace {

void linear_input_grad(NodeGradients& gradients, Parameter& weight, const Shape& x_shape) {
    if (!gradients.wants_input(0)) return;
    Scope& scope = Scope::current();
    const Tensor& dy = gradients.of_output(0);
    Tensor dx = scope.empty(x_shape, dy.dtype());
    Tensor dx_matrix = as_matrix(dx);
    kernels::matmul(dx_matrix.out(), as_matrix(dy).in(), weight.acquire(dy.dtype()).in(), {}, {},
                    scope.stream());
    weight.release();
    gradients.set_input(0, std::move(dx));
}

void linear_weight_grad(NodeGradients& gradients, WeightUse weight, Parameter* bias,
                        const Tensor& x) {
    Scope& scope = Scope::current();
    const Tensor dy = as_matrix(gradients.of_output(0));
    weight.parameter.add_gradient(weight.use, [&](View dweight) {
        kernels::matmul(dweight, dy.in(), as_matrix(x).in(), {}, {.transpose_a = true},
                        scope.stream());
    });
    if (bias)
        bias->add_gradient(
            0, [&](View dbias) { kernels::column_sum(dbias, dy.in(), scope.stream()); });
}

}  // namespace

Tensor linear(const Tensor& x, WeightUse weight, Parameter* bias) {
    Scope& scope = Scope::current();
    const Shape w = weight.parameter.local_shape();
    CHECK(w.rank() == 2 && x.shape().rank() >= 1 && x.dim(-1) == w[1],
          "{}: input {} does not fit weight {}", weight.parameter.name(), x.shape().text(),
          w.text());
    Tensor y = scope.empty(with_last_dim(x.shape(), w[0]), x.dtype());
    Tensor y_matrix = as_matrix(y);
    kernels::matmul(y_matrix.out(), as_matrix(x).in(), weight.parameter.acquire(x.dtype()).in(),
                    bias ? bias->acquire(DType::f32).in() : ConstView{}, {.transpose_b = true},
                    scope.stream());
    weight.parameter.release();
    if (bias) bias->release();
    if (scope.tape()) {
        scope.tape()->record(
            "linear", {&x}, {&y},
            [weight, shape = x.shape()](NodeGradients& gradients) {
                linear_input_grad(gradients, weight.parameter, shape);
            },
            [weight, bias, x = SavedTensor(x)](NodeGradients& gradients) {
                linear_weight_grad(gradients, weight, bias, x.get("linear"));
            },
            /*has_parameters=*/true);
    }
    return y;
}

}  // namespace plinth::core::ops
