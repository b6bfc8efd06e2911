// SPDX-License-Identifier: Apache-2.0
// RMS norm of every query and key head on its own, as in Qwen 3 (Henry et al., "Query-Key
// Normalization for Transformers", 2020, with the root mean square).
// B batch, T tokens, H query heads, G key/value heads, K head width.
#pragma once

#include "kernels/kernel.h"

namespace plinth::kernels {

struct QkNorm {
    int64_t heads = 1;
    int64_t kv_heads = 1;
    double eps = 1e-6;
};

/// y = qkv with each query and key head x replaced by x * rstd * weight, rstd = 1 / sqrt(mean(x^2)
/// + eps); values are copied. y and qkv are [B, T, (H + 2 G) K], fp32 or bf16, and y may be qkv;
/// rstd is fp32 [B, T, H + G]; q_weight and k_weight are fp32 [K].
PLINTH_KERNEL(qk_norm_forward, View y, View rstd, ConstView qkv, ConstView q_weight,
              ConstView k_weight, QkNorm options);

/// dqkv from dy, both in the layout of qkv; with g = dy * weight and xh = x * rstd:
/// dx = rstd (g - xh mean(g xh)).
PLINTH_KERNEL(qk_norm_input_grad, View dqkv, ConstView dy, ConstView qkv, ConstView rstd,
              ConstView q_weight, ConstView k_weight, QkNorm options);

/// dweight[K] = sum of dy * x * rstd over tokens and heads, the query heads or the key heads: fp32,
/// blocks of tokens in a fixed order.
PLINTH_KERNEL(qk_norm_weight_grad, View dweight, ConstView dy, ConstView qkv, ConstView rstd,
              bool of_keys, QkNorm options);

}  // namespace plinth::kernels
