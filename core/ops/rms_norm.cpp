// SPDX-License-Identifier: Apache-2.0
#include "core/ops/rms_norm.h"

#include "core/autograd/scope.h"
#include "kernels/rms_norm.h"

namespace plinth::core::ops {

Tensor rms_norm(const Tensor& x, Parameter& weight, double eps) {
    Scope& scope = Scope::current();
    CHECK(x.dim(-1) == weight.shape().elements(), "{}: input {} does not fit", weight.name(),
          x.shape().text());
    Tensor y = scope.empty(x.shape(), x.dtype());
    Tensor rstd = scope.empty({x.shape().rows()}, DType::f32);
    kernels::rms_norm_forward(y.out(), rstd.out(), x.in(), weight.acquire(DType::f32).in(), eps,
                              scope.stream());
    weight.release();
    if (!scope.tape()) return y;
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
