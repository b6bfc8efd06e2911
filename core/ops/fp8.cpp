// SPDX-License-Identifier: Apache-2.0
#include "core/ops/fp8.h"

#include <utility>

#include "core/autograd/scope.h"
#include "core/tensor/shapes.h"

namespace plinth::core::ops {

namespace {

/// The matrix units take nothing else (docs/gpu.md).
constexpr int64_t fp8_multiple = 16;

void check_extents(const Tensor& x, const Parameter& weight) {
    check_linear(x, weight);
    const Shape w = weight.local_shape();
    const int64_t rows = x.shape().rows();
    CHECK(rows % fp8_multiple == 0 && w[0] % fp8_multiple == 0 && w[1] % fp8_multiple == 0,
          "{}: 8-bit products of {} rows with weight {}: all must be multiples of {}",
          weight.name(), rows, w.text(), fp8_multiple);
}

}  // namespace

bool is_fp8(const Parameter& weight) {
    return weight.takes_fp8() && Scope::current().fp8() != nullptr;
}

Tensor fp8_linear_forward(Fp8Source& source, const Tensor& x, Parameter& weight, Parameter* bias,
                          Fp8Kept* kept) {
    const Scope& scope = Scope::current();
    check_extents(x, weight);
    const bool keeps_x = x.recipe() || x.storage()->is_kept();
    Fp8Tensor input =
        source.quantize({.weight = weight, .transposed = kept && !keeps_x}, as_matrix(x));
    const Fp8Tensor w = source.weight(weight, /*transposed=*/false);
    Tensor y = scope.empty(with_last_dim(x.shape(), weight.local_shape()[0]), x.dtype());
    Tensor y_matrix = as_matrix(y);
    kernels::fp8_matmul(y_matrix.out(), input.bits.in(), w.bits.in(),
                        bias ? bias->acquire(DType::f32).in() : ConstView{}, input.scale.in(),
                        w.scale.in(), {.a = input.format, .b = w.format, .fast_sums = true},
                        scope.stream());
    if (bias) bias->release();
    if (!kept) return y;
    if (keeps_x) kept->x = SavedTensor(x);
    input.bits = {};
    kept->quantized = std::move(input);
    return y;
}

Fp8Tensor fp8_gradient(Fp8Source& source, const Tensor& dy, const Parameter& weight, bool later) {
    return source.quantize({.weight = weight, .role = Fp8Role::gradient, .transposed = !later},
                           as_matrix(dy));
}

Tensor fp8_input_gradient(Fp8Source& source, Fp8Tensor& quantized, Parameter& weight,
                          const Shape& x_shape, DType dtype) {
    const Scope& scope = Scope::current();
    const Fp8Tensor w = source.weight(weight, /*transposed=*/true);
    Tensor dx = scope.empty(x_shape, dtype);
    Tensor dx_matrix = as_matrix(dx);
    kernels::fp8_matmul(dx_matrix.out(), quantized.bits.in(), w.transposed.in(), {},
                        quantized.scale.in(), w.scale.in(), {.a = quantized.format, .b = w.format},
                        scope.stream());
    quantized.bits = {};
    return dx;
}

void fp8_add_weight_gradient(Fp8Source& source, const Tensor& dy, const Fp8Tensor& quantized,
                             const Fp8Kept& kept, WeightUse weight) {
    const Scope& scope = Scope::current();
    const Parameter& parameter = weight.parameter;
    Fp8Tensor gradient = quantized, input = kept.quantized;
    if (!gradient.transposed.defined())
        gradient = source.quantize({.weight = parameter,
                                    .role = Fp8Role::gradient,
                                    .bits = false,
                                    .transposed = true,
                                    .scale = quantized.scale},
                                   as_matrix(dy));
    if (!input.transposed.defined())
        input = source.quantize(
            {.weight = parameter, .bits = false, .transposed = true, .scale = kept.quantized.scale},
            as_matrix(kept.x.get("fp8_linear")));
    weight.parameter.accumulate_gradient(weight.use, [&](View sum, bool accumulates) {
        kernels::fp8_matmul(sum, gradient.transposed.in(), input.transposed.in(), {},
                            gradient.scale.in(), input.scale.in(),
                            {.a = gradient.format, .b = input.format, .accumulate = accumulates},
                            scope.stream());
    });
}

Tensor fp8_linear(const Tensor& x, WeightUse weight, Parameter* bias) {
    const Scope& scope = Scope::current();
    Fp8Source& source = *scope.fp8();
    if (!scope.tape()) return fp8_linear_forward(source, x, weight.parameter, bias, nullptr);
    const auto kept = std::make_shared<Fp8Kept>();
    const auto gradient = std::make_shared<Fp8Tensor>();
    Tensor y = fp8_linear_forward(source, x, weight.parameter, bias, kept.get());
    scope.tape()->record(
        "linear", {&x}, {&y},
        [&source, gradient, weight, shape = x.shape()](NodeGradients& gradients) {
            if (!gradients.wants_input(0)) return;
            const Tensor& dy = gradients.of_output(0);
            *gradient = fp8_gradient(source, dy, weight.parameter, gradients.later() != nullptr);
            gradients.set_input(
                0, fp8_input_gradient(source, *gradient, weight.parameter, shape, dy.dtype()));
        },
        [&source, gradient, kept, weight, bias](NodeGradients& gradients) {
            const Tensor& dy = gradients.of_output(0);
            fp8_add_weight_gradient(source, dy, *gradient, *kept, weight);
            add_bias_gradient(dy, bias);
        },
        /*has_parameters=*/true);
    return y;
}

}  // namespace plinth::core::ops
