// SPDX-License-Identifier: Apache-2.0
// M rows, N outputs, K inputs of a product.
#pragma once

#include "core/autograd/fp8_source.h"
#include "core/autograd/tape.h"
#include "core/ops/matmul.h"

namespace plinth::core::ops {

/// What the gradient of a weight needs of the product's input, from the forward pass on: a recipe
/// where there is one; x itself where another node keeps it anyway; else its 8-bit copy [K,M], half
/// of x's memory.
struct Fp8Kept {
    SavedTensor x;
    Fp8Tensor quantized;
};

/// True where `linear` with this weight is made of 8-bit floats.
bool is_fp8(const Parameter& weight);

/// `linear` with both operands of each product in 8 bits: y = x w^T, dx = dy w, dweight = dy^T x.
/// M, N and K must be multiples of 16. dbias is summed from dy itself.
Tensor fp8_linear(const Tensor& x, WeightUse weight, Parameter* bias);

/// The parts of `fp8_linear`, unrecorded, for ops that have it in them. `kept` is filled; null:
/// nothing will be asked for.
Tensor fp8_linear_forward(Fp8Source& source, const Tensor& x, Parameter& weight, Parameter* bias,
                          Fp8Kept* kept);
/// dy as the input half reads it and, unless weight halves are put `later`, as the weight half
/// does.
Fp8Tensor fp8_gradient(Fp8Source& source, const Tensor& dy, const Parameter& weight, bool later);
/// dx in that shape; of `quantized` only what the weight half reads is left.
Tensor fp8_input_gradient(Fp8Source& source, Fp8Tensor& quantized, Parameter& weight,
                          const Shape& x_shape, DType dtype);
/// `quantized` is what fp8_gradient made of dy, or nothing where that was not called.
void fp8_add_weight_gradient(Fp8Source& source, const Tensor& dy, const Fp8Tensor& quantized,
                             const Fp8Kept& kept, WeightUse weight);

}  // namespace plinth::core::ops
