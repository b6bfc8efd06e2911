// SPDX-License-Identifier: Apache-2.0
#include "core/ops/swiglu.h"

#include "core/autograd/scope.h"
#include "core/tensor/shapes.h"
#include "kernels/swiglu.h"

namespace plinth::core::ops {

namespace {

Tensor forward(const Tensor& x) {
    const Scope& scope = Scope::current();
    Tensor y = scope.empty(with_last_dim(x.shape(), x.dim(-1) / 2), x.dtype());
    kernels::swiglu_forward(y.out(), x.in(), scope.stream());
    return y;
}

}  // namespace

Tensor swiglu(const Tensor& x) {
    const Scope& scope = Scope::current();
    CHECK(x.dim(-1) % 2 == 0, "swiglu: {} has no two halves", x.shape().text());
    Tensor y = forward(x);
    if (scope.remakes()) y.set_recipe([x = SavedTensor(x)] { return forward(x.get("swiglu")); });
    if (scope.tape()) {
        scope.tape()->record("swiglu", {&x}, {&y}, [x = SavedTensor(x)](NodeGradients& gradients) {
            Scope& now = Scope::current();
            const Tensor& packed = x.get("swiglu");
            Tensor dx = now.empty(packed.shape(), packed.dtype());
            kernels::swiglu_backward(dx.out(), gradients.of_output(0).in(), packed.in(),
                                     now.stream());
            gradients.set_input(0, std::move(dx));
        });
    }
    return y;
}

}  // namespace plinth::core::ops
