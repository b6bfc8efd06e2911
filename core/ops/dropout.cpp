// SPDX-License-Identifier: Apache-2.0
#include "core/ops/dropout.h"

#include "core/autograd/scope.h"
#include "core/ops/add.h"
#include "kernels/dropout.h"

namespace plinth::core::ops {

namespace {

/// The mask again, over dy.
Tensor masked(const Tensor& dy, const Tensor& samples, const kernels::Dropout& options) {
    Scope& scope = Scope::current();
    Tensor dx = scope.empty(dy.shape(), dy.dtype());
    kernels::dropout(dx.out(), {}, dy.in(), samples.in(), options, scope.stream());
    return dx;
}

Tensor dropped(const Tensor& residual, const Tensor& x, double p, const std::string& place,
               const Tensor& samples, const kernels::ElementNumbers& numbers) {
    Scope& scope = Scope::current();
    const kernels::Dropout options{static_cast<float>(p), scope.random_key(place), numbers};
    Tensor y = scope.empty(x.shape(), x.dtype());
    kernels::dropout(y.out(), residual.in(), x.in(), samples.in(), options, scope.stream());
    if (scope.tape())
        scope.tape()->record(
            "dropout", {&residual, &x}, {&y}, [samples, options](NodeGradients& gradients) {
                if (gradients.wants_input(0)) gradients.set_input(0, gradients.of_output(0));
                if (gradients.wants_input(1))
                    gradients.set_input(1, masked(gradients.of_output(0), samples, options));
            });
    return y;
}

}  // namespace

bool drops(double p) {
    return p > 0.0 && Scope::current().training();
}

Tensor dropout(const Tensor& x, double p, const std::string& place, const Tensor& samples,
               const kernels::ElementNumbers& numbers) {
    return drops(p) ? dropped({}, x, p, place, samples, numbers) : x;
}

Tensor dropout_add(const Tensor& residual, const Tensor& x, double p, const std::string& place,
                   const Tensor& samples, const kernels::ElementNumbers& numbers) {
    return drops(p) ? dropped(residual, x, p, place, samples, numbers) : add(residual, x);
}

}  // namespace plinth::core::ops
