// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/models/transformer.h"

// Models whose vocabulary no number of ranks here divides, one a family.
namespace plinth::test {

using core::models::TransformerConfig;

inline constexpr int64_t width = 24, ffn_width = 40;

inline TransformerConfig gpt() {
    return {.vocab_size = 21,  // which no number of ranks here divides
            .layers = 2,
            .width = width,
            .heads = 8,
            .kv_heads = 8,
            .head_width = 4,
            .ffn_width = ffn_width,
            .max_positions = 8,
            .dropout = 0.2,
            .z_loss = 1e-3};
}

inline TransformerConfig llama() {
    TransformerConfig config = gpt();
    config.vocab_multiple = 8;
    config.kv_heads = 4;
    config.norm.kind = core::nn::NormConfig::Kind::rms;
    config.positions = TransformerConfig::Positions::rotary;
    config.rotary = {.heads = 8, .kv_heads = 4, .theta = 10000.0};
    config.activation = TransformerConfig::Activation::swiglu;
    config.tied_head = config.attention_bias = config.qkv_bias = config.mlp_bias = false;
    config.qk_norm = true;
    return config;
}

inline TransformerConfig bloom() {
    TransformerConfig config = gpt();
    config.positions = TransformerConfig::Positions::alibi;
    config.embedding_norm = true;
    return config;
}

}  // namespace plinth::test
