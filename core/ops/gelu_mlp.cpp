// SPDX-License-Identifier: Apache-2.0
#include "core/ops/gelu_mlp.h"

#include "core/autograd/recompute.h"
#include "core/autograd/scope.h"
#include "core/ops/fp8.h"
#include "core/tensor/shapes.h"
#include "kernels/gelu.h"
#include "kernels/gelu_mlp.h"

namespace plinth::core::ops {

namespace {

struct Hidden {
    Tensor before, after;  ///< GELU
};

Tensor gelu_of(const Tensor& before, kernels::Gelu form) {
    const Scope& scope = Scope::current();
    Tensor after = scope.empty(before.shape(), before.dtype());
    kernels::gelu_forward(after.out(), before.in(), form, scope.stream());
    return after;
}

void remake_from(const Tensor& before, Tensor& after, kernels::Gelu form) {
    after.set_recipe(
        [form, saved = SavedTensor(before)] { return gelu_of(saved.get("gelu_mlp"), form); });
}

/// `after` has a recipe where the scope remakes, `before` where it remakes hidden layers.
Hidden hidden_of(const Tensor& x, const LinearUse& up, kernels::Gelu form) {
    const Scope& scope = Scope::current();
    Parameter& weight = up.weight.parameter;
    check_linear(x, weight);
    const Shape shape = with_last_dim(x.shape(), weight.local_shape()[0]);
    Hidden hidden{scope.empty(shape, x.dtype()), scope.empty(shape, x.dtype())};
    Tensor before = as_matrix(hidden.before), after = as_matrix(hidden.after);
    // Before the weight, on all compilers: the order of reads decides what ZeRO 3 gathers.
    const ConstView row = up.bias ? up.bias->acquire(DType::f32).in() : ConstView{};
    kernels::matmul_gelu(after.out(), before.out(), as_matrix(x).in(),
                         weight.acquire(x.dtype()).in(), row, form, {.transpose_b = true},
                         scope.stream());
    weight.release();
    if (up.bias) up.bias->release();
    if (scope.remakes_hidden())
        remake_once(hidden.before, [x = SavedTensor(x), up, form] {
            return hidden_of(x.get("gelu_mlp"), up, form).before;
        });
    if (scope.remakes()) remake_from(hidden.before, hidden.after, form);
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

/// Of a product with 8-bit operands.
struct Fp8Product {
    Fp8Kept input;
    Fp8Tensor gradient;  ///< from the input half to the weight half
};

struct Fp8MlpKept {
    Kept hidden;
    Fp8Product up, down;
};

void fp8_input_half(NodeGradients& gradients, Fp8Source& source, Fp8MlpKept& kept,
                    const LinearUse& up, const LinearUse& down, kernels::Gelu form,
                    const Shape& x_shape) {
    const bool later = gradients.later() != nullptr;
    const Tensor& dy = gradients.of_output(0);
    const Tensor before = kept.hidden.before.take_for_writing("gelu_mlp");  // frees what was kept
    kept.down.gradient = fp8_gradient(source, dy, down.weight.parameter, later);
    Tensor gradient = fp8_input_gradient(source, kept.down.gradient, down.weight.parameter,
                                         before.shape(), dy.dtype());
    kernels::gelu_backward(gradient.out(), gradient.in(), before.in(), form,
                           Scope::current().stream());
    kept.hidden.gradient = gradient;
    if (!gradients.wants_input(0)) return;
    kept.up.gradient = fp8_gradient(source, gradient, up.weight.parameter, later);
    gradients.set_input(
        0, fp8_input_gradient(source, kept.up.gradient, up.weight.parameter, x_shape, dy.dtype()));
}

/// As gelu_mlp, by 8-bit products: GELU stands between them in the compute dtype.
Tensor fp8_gelu_mlp(const Tensor& x, const LinearUse& up, const LinearUse& down,
                    kernels::Gelu form) {
    const Scope& scope = Scope::current();
    Fp8Source& source = *scope.fp8();
    const auto kept = scope.tape() ? std::make_shared<Fp8MlpKept>() : nullptr;
    Tensor before = fp8_linear_forward(source, x, up.weight.parameter, up.bias,
                                       kept ? &kept->up.input : nullptr);
    if (scope.remakes_hidden())
        remake_once(before, [&source, x = SavedTensor(x), up] {
            return fp8_linear_forward(source, x.get("gelu_mlp"), up.weight.parameter, up.bias,
                                      nullptr);
        });
    Tensor after = gelu_of(before, form);
    if (scope.remakes()) remake_from(before, after, form);
    Tensor y = fp8_linear_forward(source, after, down.weight.parameter, down.bias,
                                  kept ? &kept->down.input : nullptr);
    if (!kept) return y;
    kept->hidden.before = SavedTensor(before);
    scope.tape()->record(
        "gelu_mlp", {&x}, {&y},
        [&source, kept, up, down, form, shape = x.shape()](NodeGradients& gradients) {
            fp8_input_half(gradients, source, *kept, up, down, form, shape);
        },
        [&source, kept, up, down](NodeGradients& gradients) {
            const Tensor& dy = gradients.of_output(0);
            fp8_add_weight_gradient(source, dy, kept->down.gradient, kept->down.input, down.weight);
            add_bias_gradient(dy, down.bias);
            kept->down = {};
            gradients.drop_outputs();  // x may be gathered again, into as much memory
            fp8_add_weight_gradient(source, kept->hidden.gradient, kept->up.gradient,
                                    kept->up.input, up.weight);
            add_bias_gradient(kept->hidden.gradient, up.bias);
        },
        /*has_parameters=*/true);
    return y;
}

}  // namespace

Tensor gelu_mlp(const Tensor& x, const LinearUse& up, const LinearUse& down, kernels::Gelu form) {
    if (is_fp8(up.weight.parameter) && is_fp8(down.weight.parameter))
        return fp8_gelu_mlp(x, up, down, form);
    const Scope& scope = Scope::current();
    const Hidden hidden = hidden_of(x, up, form);
    Tensor y = linear_forward(hidden.after, down.weight.parameter, down.bias);
    if (!scope.tape()) return y;
    auto kept = std::make_shared<Kept>(Kept{.before = SavedTensor(hidden.before), .gradient = {}});
    scope.tape()->record(
        "gelu_mlp", {&x}, {&y},
        [kept, up, down, form, shape = x.shape()](NodeGradients& gradients) {
            const Tensor before = kept->before.take_for_writing("gelu_mlp");  // frees what was kept
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
