// SPDX-License-Identifier: Apache-2.0
#include "core/ops/cast.h"

#include "core/autograd/scope.h"
#include "kernels/cast.h"

namespace plinth::core::ops {

namespace {
Tensor converted(const Tensor& x, DType dtype) {
    Scope& scope = Scope::current();
    Tensor y = scope.empty(x.shape(), dtype);
    kernels::cast(y.out(), x.in(), scope.stream());
    return y;
}
}  // namespace

Tensor cast(const Tensor& x, DType dtype) {
    if (x.dtype() == dtype) return x;
    Scope& scope = Scope::current();
    Tensor y = converted(x, dtype);
    if (scope.tape())
        scope.tape()->record("cast", {&x}, {&y}, [from = x.dtype()](NodeGradients& gradients) {
            gradients.set_input(0, converted(gradients.of_output(0), from));
        });
    return y;
}

}  // namespace plinth::core::ops
