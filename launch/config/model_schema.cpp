// SPDX-License-Identifier: Apache-2.0
// What every key of a transformer is called, means and may be.
#include "launch/config/run_config.h"

namespace plinth::launch {
namespace {

void declare_rope(Schema& schema, RopeScaling& scaling) {
    schema.choice("model.rope_scaling.type", &scaling.kind,
                  {{"none", RopeScalingKind::none}, {"llama3", RopeScalingKind::llama3}},
                  {.doc = "How rotary frequencies are stretched beyond the original positions."});
    schema.key("model.rope_scaling.factor", &scaling.factor,
               {.doc = "Division of the lowest frequencies.", .min = 1});
    schema.key(
        "model.rope_scaling.low_freq_factor", &scaling.low_freq_factor,
        {.doc = "Wavelengths over original_positions / this are divided by factor.", .above = 0});
    schema.key(
        "model.rope_scaling.high_freq_factor", &scaling.high_freq_factor,
        {.doc = "Wavelengths under original_positions / this stay as they are.", .above = 0});
    schema.key("model.rope_scaling.original_positions", &scaling.original_positions,
               {.doc = "Positions before the stretching.", .unit = "tokens", .min = 1});
}

/// How a block normalises, and how it sees order.
void declare_norm_and_positions(Schema& schema, ModelSection& model) {
    schema.choice("model.norm", &model.norm, {{"layer", NormKind::layer}, {"rms", NormKind::rms}},
                  {.doc = "Normalisation: layer norm (weight and bias) or RMS norm (weight)."});
    schema.key("model.norm_eps", &model.norm_eps,
               {.doc = "Added to the variance (or mean square).", .above = 0, .below = 1});
    schema.choice("model.positions", &model.positions,
                  {{"learned", PositionKind::learned},
                   {"rotary", PositionKind::rotary},
                   {"alibi", PositionKind::alibi},
                   {"none", PositionKind::none}},
                  {.doc = "How attention sees order."});
    schema.key("model.rope_theta", &model.rope_theta,
               {.doc = "Base of the rotary frequencies.", .above = 0});
    declare_rope(schema, model.rope_scaling);
}

/// Biases and norms that some families have.
void declare_biases_and_norms(Schema& schema, ModelSection& model) {
    schema.key("model.attention_bias", &model.attention_bias,
               {.doc = "Bias on attention's output projection."});
    schema.key("model.qkv_bias", &model.qkv_bias,
               {.doc = "Bias on the query, key and value projections."});
    schema.key("model.mlp_bias", &model.mlp_bias, {.doc = "Bias on the MLP's projections."});
    schema.key("model.qk_norm", &model.qk_norm,
               {.doc = "RMS norm over each head's queries and keys."});
    schema.key("model.embedding_norm", &model.embedding_norm,
               {.doc = "Norm right after the token embedding (BLOOM)."});
}

}  // namespace

void declare(Schema& schema, ModelSection& model) {
    schema.section("model", "The transformer. Every family is a setting of these keys.",
                   Resume::refused);
    schema.key(
        "model.vocab_size", &model.vocab_size,
        {.doc = "Tokens of the vocabulary.", .unit = "tokens", .min = 2, .max = largest_dim});
    schema.key(
        "model.vocab_multiple", &model.vocab_multiple,
        {.doc = "On each tensor rank, memory of the token table and the head has rows up to a "
                "multiple of this: zeros, never learned, predicted or saved. A GPU's products take "
                "them, a CPU's do not and keep every bit.",
         .unit = "tokens",
         .min = 1,
         .max = 1 << 20,
         .resume = Resume::recorded});
    schema.key("model.layers", &model.layers,
               {.doc = "Transformer blocks.", .min = 1, .max = 1 << 16});
    schema.key("model.width", &model.width,
               {.doc = "Width of the residual stream.", .min = 1, .max = 1 << 20});
    schema.key("model.heads", &model.heads, {.doc = "Query heads.", .min = 1, .max = 1 << 16});
    schema.key("model.kv_heads", &model.kv_heads,
               {.doc = "Key and value heads (grouped-query attention); 0 means heads.",
                .min = 0,
                .max = 1 << 16});
    schema.key("model.head_width", &model.head_width,
               {.doc = "Width of one head; 0 means width / heads.", .min = 0, .max = 1 << 20});
    schema.key("model.ffn_width", &model.ffn_width,
               {.doc = "Inner width of the MLP; 0 means 4 x width.", .min = 0, .max = 1 << 24});
    schema.key(
        "model.max_positions", &model.max_positions,
        {.doc = "Rows of the learned positions, the longest sequence of such a model; the other "
                "positions are computed and have no end.",
         .unit = "tokens",
         .min = 1,
         .max = largest_dim});
    declare_norm_and_positions(schema, model);
    schema.choice("model.activation", &model.activation,
                  {{"gelu_tanh", Activation::gelu_tanh},
                   {"gelu_erf", Activation::gelu_erf},
                   {"swiglu", Activation::swiglu}},
                  {.doc = "Nonlinearity of the MLP; swiglu has a gate and an up projection."});
    schema.key("model.tied_head", &model.tied_head,
               {.doc = "The output head uses the token embedding's weight."});
    declare_biases_and_norms(schema, model);
    schema.key(
        "model.causal", &model.causal,
        {.doc = "A token sees only itself and earlier tokens. Only a classifier's model may go "
                "without: false is refused where the next token is predicted."});
    schema.key("model.sliding_window", &model.sliding_window,
               {.doc = "A token sees itself and the tokens before it, this many in all, in every "
                       "layer; 0: all of them. The key-value cache keeps all the same.",
                .unit = "tokens",
                .min = 0});
    schema.key("model.dropout", &model.dropout,
               {.doc = "Dropout on the embedding and on both residual branches.",
                .min = 0,
                .below = 1,
                .resume = Resume::recorded});
    schema.key("model.init_std", &model.init_std,
               {.doc = "Standard deviation of the initial weights; residual projections get it "
                       "divided by sqrt(2 x layers).",
                .above = 0});
}

}  // namespace plinth::launch
