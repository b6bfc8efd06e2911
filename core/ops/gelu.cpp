// SPDX-License-Identifier: Apache-2.0
#include "core/ops/gelu.h"

#include "core/autograd/scope.h"

namespace plinth::core::ops {

namespace {

Tensor forward(const Tensor& x, kernels::Gelu form) {
    const Scope& scope = Scope::current();
    Tensor y = scope.empty(x.shape(), x.dtype());
    kernels::gelu_forward(y.out(), x.in(), form, scope.stream());
    return y;
}

}  // namespace

Tensor gelu(const Tensor& x, kernels::Gelu form) {
    const Scope& scope = Scope::current();
    Tensor y = forward(x, form);
    if (scope.remakes())
        y.set_recipe([form, x = SavedTensor(x)] { return forward(x.get("gelu"), form); });
    if (scope.tape()) {
        scope.tape()->record("gelu", {&x}, {&y},
                             [form, x = SavedTensor(x)](NodeGradients& gradients) {
                                 if (!gradients.wants_input(0)) return;
                                 Scope& now = Scope::current();
                                 const Tensor& input = x.get("gelu");
                                 Tensor dx = now.empty(input.shape(), input.dtype());
                                 kernels::gelu_backward(dx.out(), gradients.of_output(0).in(),
                                                        input.in(), form, now.stream());
                                 gradients.set_input(0, std::move(dx));
                             });
    }
    return y;
}

}  // namespace plinth::core::ops
