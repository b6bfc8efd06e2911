// SPDX-License-Identifier: Apache-2.0
#include "core/models/transformer_plan.h"

namespace plinth::core::models {

using nn::Placement;

nn::Plan transformer_plan(const TransformerConfig& config) {
    const int64_t q = config.heads * config.head_width, kv = config.kv_heads * config.head_width,
                  F = config.ffn_width;
    return {
        {"embedding.tokens", Placement::table},
        {"embedding.positions", Placement::replicated},
        {"embedding.norm", Placement::replicated},
        {"blocks.*.attention_norm", Placement::replicated},
        {"blocks.*.attention.qkv", Placement::column, {q, kv, kv}},
        {"blocks.*.attention.q_norm", Placement::replicated},
        {"blocks.*.attention.k_norm", Placement::replicated},
        {"blocks.*.attention.output", Placement::row},
        {"blocks.*.mlp_norm", Placement::replicated},
        {"blocks.*.mlp.up", Placement::column},
        {"blocks.*.mlp.gate_up", Placement::column, {F, F}},
        {"blocks.*.mlp.down", Placement::row},
        {"final_norm", Placement::replicated},
        {"head", Placement::head, {config.vocab_size}},
    };
}

nn::Plan classifier_plan(const TransformerConfig& trunk) {
    nn::Plan plan = transformer_plan(trunk);
    plan.push_back({"classifier", Placement::alike});
    return plan;
}

}  // namespace plinth::core::models
