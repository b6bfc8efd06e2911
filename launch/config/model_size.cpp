// SPDX-License-Identifier: Apache-2.0
// D width, F ffn, H heads, G key-value heads, K head width, V vocabulary, L layers, P positions.
#include "launch/config/model_size.h"

namespace plinth::launch {
namespace {

int64_t projections_per_layer(const ModelSection& model) {
    const int64_t D = model.width;
    const int64_t q = model.heads * model.head_width;
    const int64_t kv = model.kv_heads * model.head_width;
    const int64_t mlp_matrices = model.activation == Activation::swiglu ? 3 : 2;
    return D * (q + 2 * kv) + q * D + mlp_matrices * D * model.ffn_width;
}

int64_t biases_per_layer(const ModelSection& model) {
    const int64_t q = model.heads * model.head_width;
    const int64_t kv = model.kv_heads * model.head_width;
    const int64_t inner = (model.activation == Activation::swiglu ? 2 : 1) * model.ffn_width;
    return (model.qkv_bias ? q + 2 * kv : 0) + (model.attention_bias ? model.width : 0) +
           (model.mlp_bias ? inner + model.width : 0);
}

}  // namespace

int64_t parameter_count(const ModelSection& model) {
    const int64_t norm = model.width * (model.norm == NormKind::layer ? 2 : 1);
    const int64_t qk_norm = model.qk_norm ? 2 * model.head_width : 0;
    const int64_t embedding = model.vocab_size * model.width;
    const int64_t positions =
        model.positions == PositionKind::learned ? model.max_positions * model.width : 0;
    const int64_t layer =
        projections_per_layer(model) + biases_per_layer(model) + 2 * norm + qk_norm;
    return embedding + positions + (model.embedding_norm ? norm : 0) + model.layers * layer + norm +
           (model.tied_head ? 0 : embedding);
}

int64_t matmul_parameters(const ModelSection& model) {
    return model.layers * projections_per_layer(model) + model.vocab_size * model.width;
}

}  // namespace plinth::launch
