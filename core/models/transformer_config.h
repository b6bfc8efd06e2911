// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "core/nn/mlp.h"
#include "core/nn/norm.h"
#include "kernels/rotary.h"

namespace plinth::core::models {

/// The one configurable transformer. GPT-2/3, Llama and BLOOM are values of it (configs/).
struct TransformerConfig {
    enum class Positions { learned, rotary, alibi, none };
    using Activation = nn::MlpConfig::Activation;

    int64_t vocab_size = 0;
    int64_t vocab_multiple = 1;  ///< memory of the token table and the head has rows up to it
    int64_t layers = 0;
    int64_t width = 0;
    int64_t heads = 0;
    int64_t kv_heads = 0;
    int64_t head_width = 0;
    int64_t ffn_width = 0;
    int64_t max_positions = 0;
    nn::NormConfig norm;
    Positions positions = Positions::learned;
    kernels::Rotary rotary;
    Activation activation = Activation::gelu_tanh;
    bool language_head = true;  ///< false: features only, for models with another head
    bool tied_head = true;
    bool attention_bias = true;  ///< of the attention output projection
    bool qkv_bias = true;
    bool mlp_bias = true;
    bool qk_norm = false;
    bool embedding_norm = false;
    bool causal = true;
    int64_t attention_window = 0;  ///< tokens that one sees, itself included; 0: all
    bool recompute = false;  ///< keep only block inputs, run each block again in the backward pass
    double dropout = 0.0;
    double init_stddev = 0.02;
    double z_loss = 0.0;

    /// Throws an internal error; the user's configuration was checked, with key names, before.
    void validate() const;
};

}  // namespace plinth::core::models
