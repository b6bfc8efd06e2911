// SPDX-License-Identifier: Apache-2.0
#include "core/ops/gelu_mlp.h"

#include "core/autograd/scope.h"
#include "core/tensor/shapes.h"
#include "kernels/gelu_mlp.h"

namespace plinth::core::ops {

namespace {

struct Hidden {
    Tensor before, after;  ///< GELU
};

/// `after` has a recipe where the scope remakes.
Hidden hidden_of(const Tensor& x, const LinearUse& up, kernels::Gelu form) {
    const Scope& scope = Scope::current();
    Parameter& weight = up.weight.parameter;
    check_linear(x, weight);
    const Shape shape = with_last_dim(x.shape(), weight.local_shape()[0]);
    Hidden hidden{scope.empty(shape, x.dtype()), scope.empty(shape, x.dtype())};
    Tensor before = as_matrix(hidden.before), after = as_matrix(hidden.after);
    kernels::matmul_gelu(after.out(), before.out(), as_matrix(x).in(),
                         weight.acquire(x.dtype()).in(),
                         up.bias ? up.bias->acquire(DType::f32).in() : ConstView{}, form,
                         {.transpose_b = true}, scope.stream());
    weight.release();
    if (up.bias) up.bias->release();
    if (scope.remakes())
        hidden.after.set_recipe([form, saved = SavedTensor(hidden.before)] {
            const Scope& now = Scope::current();
            const Tensor again = saved.get("gelu_mlp");
            Tensor made = now.empty(again.shape(), again.dtype());
            kernels::gelu_forward(made.out(), again.in(), form, now.stream());
            return made;
        });
    return hidden;
}

Tensor gradient_before_gelu(const Tensor& dy, Parameter& down, const Tensor& before,
                            kernels::Gelu form) {
    const Scope& scope = Scope::current();
    Tensor gradient = scope.empty(before.shape(), before.dtype());
    Tensor matrix = as_matrix(gradient);
    kernels::matmul_gelu_backward(matrix.out(), as_matrix(dy).in(), down.acquire(dy.dtype()).in(),
                                  as_matrix(before).in(), form, {}, scope.stream());
    down.release();
    return gradient;
}

/// From the forward pass to the input half, and from that to the weight half.
struct Kept {
    SavedTensor before;
    Tensor gradient;  ///< of `before`
};

}  // namespace

Tensor gelu_mlp(const Tensor& x, const LinearUse& up, const LinearUse& down, kernels::Gelu form) {
    const Scope& scope = Scope::current();
    const Hidden hidden = hidden_of(x, up, form);
    Tensor y = linear_forward(hidden.after, down.weight.parameter, down.bias);
    if (!scope.tape()) return y;
    auto kept = std::make_shared<Kept>(SavedTensor(hidden.before));
    scope.tape()->record(
        "gelu_mlp", {&x}, {&y},
        [kept, up, down, form, shape = x.shape()](NodeGradients& gradients) {
            const Tensor before = kept->before.take_for_writing("gelu_mlp");  // frees it here
            kept->gradient =
                gradient_before_gelu(gradients.of_output(0), down.weight.parameter, before, form);
            if (gradients.wants_input(0))
                gradients.set_input(
                    0, linear_input_gradient(kept->gradient, up.weight.parameter, shape));
        },
        [kept, up, down, x = SavedTensor(x),
         after = SavedTensor(hidden.after)](NodeGradients& gradients) {
            add_linear_weight_gradients(gradients.of_output(0), after.get("gelu_mlp"), down.weight,
                                        down.bias);
            gradients.drop_outputs();  // x may be gathered again, into as much memory
            add_linear_weight_gradients(kept->gradient, x.get("gelu_mlp"), up.weight, up.bias);
        },
        /*has_parameters=*/true);
    return y;
}

}  // namespace plinth::core::ops
