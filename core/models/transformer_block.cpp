// SPDX-License-Identifier: Apache-2.0
#include "core/models/transformer_block.h"

#include <cmath>

#include "core/ops/dropout.h"

namespace plinth::core::models {

namespace {

/// Projections into the residual stream start smaller, so that its variance does not grow with
/// depth (GPT-2, section 2.3).
double residual_init_stddev(const TransformerConfig& config) {
    return config.init_stddev / std::sqrt(2.0 * static_cast<double>(config.layers));
}

nn::AttentionConfig attention_config(const TransformerConfig& config) {
    nn::AttentionConfig attention{.width = config.width,
                                  .heads = config.heads,
                                  .kv_heads = config.kv_heads,
                                  .head_width = config.head_width,
                                  .causal = config.causal,
                                  .window = config.attention_window,
                                  .qkv_bias = config.qkv_bias,
                                  .output_bias = config.attention_bias,
                                  .qk_norm = config.qk_norm,
                                  .norm_eps = config.norm.eps,
                                  .alibi = config.positions == TransformerConfig::Positions::alibi,
                                  .rotary = {},
                                  .dropout = config.dropout,
                                  .init_stddev = config.init_stddev,
                                  .output_init_stddev = residual_init_stddev(config)};
    if (config.positions == TransformerConfig::Positions::rotary) attention.rotary = config.rotary;
    return attention;
}

nn::MlpConfig mlp_config(const TransformerConfig& config) {
    return {.activation = config.activation,
            .width = config.width,
            .ffn_width = config.ffn_width,
            .bias = config.mlp_bias,
            .init_stddev = config.init_stddev,
            .output_init_stddev = residual_init_stddev(config)};
}

}  // namespace

TransformerBlock::TransformerBlock(const nn::Declaration& at, int64_t layer,
                                   const TransformerConfig& config)
    : dropout_(config.dropout),
      attention_dropout_name_(fmt::format("blocks.{}.attention.dropout", layer)),
      mlp_dropout_name_(fmt::format("blocks.{}.mlp.dropout", layer)),
      attention_norm_(at / "attention_norm", config.width, config.norm),
      attention_(at / "attention", layer, attention_config(config)),
      mlp_norm_(at / "mlp_norm", config.width, config.norm),
      mlp_(at / "mlp", mlp_config(config)) {}

ops::NormedSum TransformerBlock::attend(const Tensor& x, const Batch& batch,
                                        const nn::InnerAttention& inner) const {
    const auto [stream, normed] = attention_norm_.of_sum(x);
    const Tensor branch = attention_(normed, batch, inner);
    if (!ops::drops(dropout_)) return mlp_norm_.of_sum(stream, branch);
    return mlp_norm_.of_sum(ops::dropout_add(stream, branch, dropout_, attention_dropout_name_,
                                             batch.sample_ids, batch.element_numbers(x.dim(-1))));
}

Tensor TransformerBlock::operator()(const Tensor& x, const Batch& batch,
                                    const nn::InnerAttention& inner) const {
    const auto [attended, normed] = attend(x, batch, inner);
    return ops::dropout_add(attended, mlp_(normed, batch.slice), dropout_, mlp_dropout_name_,
                            batch.sample_ids, batch.element_numbers(x.dim(-1)));
}

}  // namespace plinth::core::models
