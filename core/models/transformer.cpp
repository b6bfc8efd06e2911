// SPDX-License-Identifier: Apache-2.0
#include "core/models/transformer.h"

#include "core/autograd/recompute.h"
#include "core/ops/dropout.h"
#include "core/ops/embedding.h"

namespace plinth::core::models {

void TransformerConfig::validate() const {
    CHECK(vocab_size > 0 && vocab_multiple > 0 && layers > 0 && width > 0 && ffn_width > 0,
          "a transformer needs a vocabulary, layers and widths");
    CHECK(heads > 0 && kv_heads > 0 && head_width > 0 && heads % kv_heads == 0,
          "{} heads of width {} over {} key-value heads", heads, head_width, kv_heads);
    CHECK(positions != Positions::rotary || head_width % 2 == 0,
          "rotary positions need an even head width, got {}", head_width);
}

Transformer::Transformer(const TransformerConfig& config) : config_(config) {
    config.validate();
    const nn::Declaration root(parameters_);
    const Init init = Init::normal(config.init_stddev);
    token_table_ =
        &(root / "embedding" / "tokens").weight({config.padded_vocab(), config.width}, init);
    token_use_ = token_table_->add_use();
    if (config.positions == TransformerConfig::Positions::learned) {
        position_table_ =
            &(root / "embedding" / "positions").weight({config.max_positions, config.width}, init);
        position_table_->add_use();
    }
    if (config.embedding_norm)
        embedding_norm_.emplace(root / "embedding" / "norm", config.width, config.norm);
    for (int64_t layer = 0; layer < config.layers; ++layer)
        blocks_.emplace_back(root / "blocks" / layer, layer, config);
    final_norm_.emplace(root / "final_norm", config.width, config.norm);
    if (!config.language_head) return;
    if (config.tied_head)
        head_.emplace(*token_table_);
    else
        head_.emplace(root / "head", config.width, config.padded_vocab(), /*bias=*/false,
                      config.init_stddev);
}

Tensor Transformer::embed(const Batch& batch) const {
    const ops::WeightUse tokens{*token_table_, token_use_};
    Tensor x = position_table_
                   ? ops::embedding(batch.tokens, tokens, batch.positions, {*position_table_})
                   : ops::embedding(batch.tokens, tokens);
    if (embedding_norm_) x = (*embedding_norm_)(x);
    return ops::dropout(x, config_.dropout, "embedding.dropout", batch.sample_ids);
}

Tensor Transformer::run_block(size_t layer, const Tensor& x, const Batch& batch,
                              const nn::InnerAttention& inner) const {
    if (!config_.recompute) return blocks_[layer](x, batch, inner);
    return recompute([this, layer, batch,
                      &inner](const Tensor& input) { return blocks_[layer](input, batch, inner); },
                     x);
}

Tensor Transformer::features(const Batch& batch, const nn::InnerAttention& inner) const {
    Tensor x = embed(batch);
    for (size_t layer = 0; layer < blocks_.size(); ++layer)
        x = run_block(layer, x, batch, inner);
    return (*final_norm_)(x);
}

Tensor Transformer::project(const Tensor& features) const {
    CHECK(head_, "this transformer was built without a language head");
    return (*head_)(features);
}

Tensor Transformer::head(const Tensor& x) const {
    return project((*final_norm_)(x));
}

ops::Loss Transformer::loss(const Batch& batch) const {
    CHECK(head_, "this transformer was built without a language head");
    return ops::linear_cross_entropy(
        features(batch), head_->weight(), batch.targets,
        {.valid_columns = config_.vocab_size, .z_loss = config_.z_loss});
}

std::vector<Phase> Transformer::phases() {
    return {{.name = "language_model",
             .loss = [this](const Batch& batch) { return loss(batch); },
             .parameters = parameters_.all()}};
}

}  // namespace plinth::core::models
