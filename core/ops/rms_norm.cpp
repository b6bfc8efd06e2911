// SPDX-License-Identifier: Apache-2.0
#include "core/ops/rms_norm.h"

#include "core/autograd/scope.h"
#include "kernels/cast.h"
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

/// What the halves of the backward pass share: one pass over x gives both gradients, in the input
/// half.
struct Saved {
    SavedTensor x, rstd;
    Tensor dweight;
};

void input_grad(NodeGradients& gradients, Saved& saved, Parameter& weight) {
    const Scope& scope = Scope::current();
    const Tensor x = saved.x.get("rms_norm");
    Tensor dx = gradients.wants_input(0) ? scope.empty(x.shape(), x.dtype()) : Tensor{};
    saved.dweight = scope.empty(weight.local_shape(), DType::f32);
    kernels::rms_norm_backward(dx.out(), saved.dweight.out(), gradients.of_output(0).in(), x.in(),
                               weight.acquire(DType::f32).in(), saved.rstd.get("rms_norm").in(),
                               scope.stream());
    weight.release();
    if (dx.defined()) gradients.set_input(0, std::move(dx));
    saved.x = saved.rstd = {};
    gradients.drop_outputs();
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
    auto saved = std::make_shared<Saved>(Saved{SavedTensor(x), SavedTensor(rstd), {}});
    scope.tape()->record(
        "rms_norm", {&x}, {&y},
        [saved, &weight](NodeGradients& gradients) { input_grad(gradients, *saved, weight); },
        [saved, &weight](NodeGradients&) {
            weight.add_gradient(0, [&](View dweight) {
                kernels::cast(dweight, saved->dweight.in(), Scope::current().stream());
            });
        },
        /*has_parameters=*/true);
    return y;
}

}  // namespace plinth::core::ops
