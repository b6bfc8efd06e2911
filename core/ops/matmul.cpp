// SPDX-License-Identifier: Apache-2.0
#include "core/ops/matmul.h"

#include "core/autograd/scope.h"
#include "core/ops/fp8.h"
#include "core/tensor/shapes.h"
#include "kernels/matmul.h"

namespace plinth::core::ops {

void check_linear(const Tensor& x, const Parameter& weight) {
    const Shape w = weight.local_shape();
    CHECK(w.rank() == 2 && x.shape().rank() >= 1 && x.dim(-1) == w[1],
          "{}: input {} does not fit weight {}", weight.name(), x.shape().text(), w.text());
}

Tensor linear_forward(const Tensor& x, Parameter& weight, Parameter* bias) {
    const Scope& scope = Scope::current();
    check_linear(x, weight);
    Tensor y = scope.empty(with_last_dim(x.shape(), weight.local_shape()[0]), x.dtype());
    Tensor y_matrix = as_matrix(y);
    // Before the weight, on all compilers: the order of reads decides what ZeRO 3 gathers.
    const ConstView row = bias ? bias->acquire(DType::f32).in() : ConstView{};
    kernels::matmul(y_matrix.out(), as_matrix(x).in(), weight.acquire(x.dtype()).in(), row,
                    {.transpose_b = true}, scope.stream());
    weight.release();
    if (bias) bias->release();
    return y;
}

Tensor linear_input_gradient(const Tensor& dy, Parameter& weight, const Shape& x_shape) {
    const Scope& scope = Scope::current();
    Tensor dx = scope.empty(x_shape, dy.dtype());
    Tensor dx_matrix = as_matrix(dx);
    kernels::matmul(dx_matrix.out(), as_matrix(dy).in(), weight.acquire(dy.dtype()).in(), {}, {},
                    scope.stream());
    weight.release();
    return dx;
}

void add_linear_weight_gradients(const Tensor& dy, const Tensor& x, WeightUse weight,
                                 Parameter* bias) {
    const Scope& scope = Scope::current();
    const Tensor gradient = as_matrix(dy);
    weight.parameter.accumulate_gradient(weight.use, [&](View sum, bool accumulates) {
        kernels::matmul(sum, gradient.in(), as_matrix(x).in(), {},
                        {.transpose_a = true, .accumulate = accumulates}, scope.stream());
    });
    add_bias_gradient(dy, bias);
}

void add_bias_gradient(const Tensor& dy, Parameter* bias) {
    if (!bias) return;
    bias->add_gradient(0, [&](View dbias) {
        kernels::column_sum(dbias, as_matrix(dy).in(), Scope::current().stream());
    });
}

Tensor linear(const Tensor& x, WeightUse weight, Parameter* bias) {
    if (is_fp8(weight.parameter)) return fp8_linear(x, weight, bias);
    const Scope& scope = Scope::current();
    Tensor y = linear_forward(x, weight.parameter, bias);
    if (scope.tape()) {
        scope.tape()->record(
            "linear", {&x}, {&y},
            [weight, shape = x.shape()](NodeGradients& gradients) {
                if (!gradients.wants_input(0)) return;
                gradients.set_input(
                    0, linear_input_gradient(gradients.of_output(0), weight.parameter, shape));
            },
            [weight, bias, x = SavedTensor(x)](NodeGradients& gradients) {
                add_linear_weight_gradients(gradients.of_output(0), x.get("linear"), weight, bias);
            },
            /*has_parameters=*/true);
    }
    return y;
}

}  // namespace plinth::core::ops
