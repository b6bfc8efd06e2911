// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string_view>

#include "core/tensor/tensor.h"
#include "kernels/attention.h"

namespace plinth::core::ops {

/// Optional tensors of attention; see kernels::AttentionMask.
struct AttentionInputs {
    Tensor slopes;     ///< fp32 [H]
    Tensor documents;  ///< i32 [B, T]
    Tensor samples;    ///< i64 [B]
};

/// y[B,T,H*K] from qkv[B,T,(H + 2 G) K]; see kernels/attention.h. While the scope is training and
/// options.dropout > 0, weights are dropped by random numbers named `name`, which must be unique in
/// the model; otherwise options.dropout is ignored. options.random is set here.
Tensor attention(const Tensor& qkv, kernels::Attention options, const AttentionInputs& inputs = {},
                 std::string_view name = "");

/// Attention of new tokens over a cache; see kernels::attention_cached. Records nothing.
Tensor attention_cached(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& starts,
                        const kernels::Attention& options, const Tensor& slopes = {});

}  // namespace plinth::core::ops
