// SPDX-License-Identifier: Apache-2.0
#include "core/ops/rms_norm.h"

#include "core/autograd/scope.h"
#include "kernels/rms_norm.h"

namespace plinth::core::ops {

namespace {

struct Result {
    Tensor y, rstd;
};

Result forward(const Tensor& x, Parameter& weight, double eps) {
    const Scope& scope = Scope::current();
    Result result{scope.empty(x.shape(), x.dtype()), scope.empty({x.shape().rows()}, DType::f32)};
    kernels::rms_norm_forward(result.y.out(), result.rstd.out(), x.in(),
                              weight.acquire(DType::f32).in(), eps, scope.stream());
    weight.release();
    return result;
}

}  // namespace

Tensor rms_norm(const Tensor& x, Parameter& weight, double eps) {
    const Scope& scope = Scope::current();
    CHECK(x.dim(-1) == weight.shape().elements(), "{}: input {} does not fit", weight.name(),
          x.shape().text());
    auto [y, rstd] = forward(x, weight, eps);
    if (!scope.tape()) return y;
    if (scope.remakes())
        y.set_recipe([&weight, eps, x = SavedTensor(x)] {
            return forward(x.get("rms_norm"), weight, eps).y;
        });
    scope.tape()->record(
        "rms_norm", {&x}, {&y},
        [&weight, x = SavedTensor(x), rstd = SavedTensor(rstd)](NodeGradients& gradients) {
            // One pass over x gives both gradients, so the node has no separate weight half.
            Scope& now = Scope::current();
            const Tensor& input = x.get("rms_norm");
            Tensor dx;
            if (gradients.wants_input(0)) dx = now.empty(input.shape(), input.dtype());
            weight.add_gradient(0, [&](View dweight) {
                kernels::rms_norm_backward(dx.out(), dweight, gradients.of_output(0).in(),
                                           input.in(), weight.acquire(DType::f32).in(),
                                           rstd.get("rms_norm").in(), now.stream());
            });
            weight.release();
            if (dx.defined()) gradients.set_input(0, std::move(dx));
        },
        {}, /*has_parameters=*/true);
    return y;
}

}  // namespace plinth::core::ops
