// SPDX-License-Identifier: Apache-2.0
#include "core/ops/rotary.h"

#include "core/autograd/scope.h"

namespace plinth::core::ops {

namespace {

Tensor turned(const Tensor& x, const Tensor& positions, const kernels::Rotary& options,
              bool backward) {
    Scope& scope = Scope::current();
    Tensor y = scope.empty(x.shape(), x.dtype());
    kernels::rotary(y.out(), x.in(), positions.in(), options, backward, scope.stream());
    return y;
}

}  // namespace

Tensor rotary(const Tensor& qkv, const Tensor& positions, const kernels::Rotary& options) {
    Tensor y = turned(qkv, positions, options, /*backward=*/false);
    if (Tape* tape = Scope::current().tape())
        tape->record("rotary", {&qkv}, {&y},
                     [positions = SavedTensor(positions), options](NodeGradients& gradients) {
                         if (gradients.wants_input(0))
                             gradients.set_input(
                                 0, turned(gradients.of_output(0), positions.get("rotary"), options,
                                           /*backward=*/true));
                     });
    return y;
}

}  // namespace plinth::core::ops
