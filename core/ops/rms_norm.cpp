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

/// With a branch, `sum` is written, else it is x.
Result forward(Tensor& sum, const Tensor& x, const Tensor& branch, Parameter& weight, double eps) {
    const Scope& scope = Scope::current();
    Result result{scope.empty(x.shape(), x.dtype()), scope.empty({x.shape().rows()}, DType::f32)};
    kernels::rms_norm_forward(result.y.out(), result.rstd.out(),
                              branch.defined() ? sum.out() : View{}, x.in(), branch.in(),
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
    SumGradients of_sum(gradients);
    if (const Tensor& dy = gradients.of_output(1); dy.defined()) {
        saved.dweight = scope.empty(weight.local_shape(), DType::f32);
        kernels::rms_norm_backward(of_sum.dx.out(), saved.dweight.out(), dy.in(), of_sum.dsum.in(),
                                   saved.x.get("rms_norm").in(), weight.acquire(DType::f32).in(),
                                   saved.rstd.get("rms_norm").in(), scope.stream());
        weight.release();
        of_sum.finish(gradients);
    }
    saved.x = saved.rstd = {};
    gradients.drop_outputs();
}

}  // namespace

Tensor rms_norm(const Tensor& x, Parameter& weight, double eps) {
    return rms_norm_of_sum(x, {}, weight, eps).y;
}

NormedSum rms_norm_of_sum(const Tensor& x, const Tensor& branch, Parameter& weight, double eps) {
    const Scope& scope = Scope::current();
    CHECK(x.dim(-1) == weight.shape().elements(), "{}: input {} does not fit", weight.name(),
          x.shape().text());
    Tensor sum = place_for_sum(x, branch, weight);
    auto [y, rstd] = forward(sum, x, branch, weight, eps);
    if (!scope.tape()) return {sum, y};
    if (scope.remakes())
        y.set_recipe([&weight, eps, kept = SavedTensor(sum)] {
            Tensor again = kept.get("rms_norm");
            return forward(again, again, {}, weight, eps).y;
        });
    auto saved = std::make_shared<Saved>(Saved{SavedTensor(sum), SavedTensor(rstd), {}});
    scope.tape()->record(
        "rms_norm", {&x, &branch}, {&sum, &y},
        [saved, &weight](NodeGradients& gradients) { input_grad(gradients, *saved, weight); },
        [saved, &weight](NodeGradients&) {
            if (!saved->dweight.defined()) return;  // nothing depended on y
            weight.add_gradient(0, [&](View dweight) {
                kernels::cast(dweight, saved->dweight.in(), Scope::current().stream());
            });
        },
        /*has_parameters=*/true);
    return {sum, y};
}

}  // namespace plinth::core::ops
