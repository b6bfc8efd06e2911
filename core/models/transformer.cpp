// SPDX-License-Identifier: Apache-2.0
#include "core/models/transformer.h"

#include <algorithm>

#include "core/autograd/recompute.h"
#include "core/ops/dropout.h"
#include "core/ops/embedding.h"
#include "kernels/runtime/trace.h"

namespace plinth::core::models {

void TransformerConfig::validate() const {
    CHECK(vocab_size > 0 && vocab_multiple > 0 && layers > 0 && width > 0 && ffn_width > 0,
          "a transformer needs a vocabulary, layers and widths");
    CHECK(heads > 0 && kv_heads > 0 && head_width > 0 && heads % kv_heads == 0,
          "{} heads of width {} over {} key-value heads", heads, head_width, kv_heads);
    CHECK(positions != Positions::rotary || head_width % 2 == 0,
          "rotary positions need an even head width, got {}", head_width);
}

Transformer::Transformer(const TransformerConfig& config, std::vector<Parts> chunks,
                         const nn::Layout& layout)
    : config_(config),
      chunks_(std::move(chunks)),
      blocks_(static_cast<size_t>(std::max<int64_t>(0, config.layers))) {
    config.validate();
    attention_ = layout.attention();
    const nn::Declaration root(parameters_, layout);
    for (const Parts& parts : chunks_) {
        declare(parts, root);
        ends_.push_back(parameters_.all().size());
    }
}

Parameter& Transformer::token_table(const nn::Declaration& root) const {
    return (root / "embedding" / "tokens")
        .weight({config_.vocab_size, config_.width}, Init::normal(config_.init_stddev),
                config_.vocab_multiple);
}

void Transformer::declare(const Parts& parts, const nn::Declaration& root) {
    CHECK(parts.first_block >= 0 && parts.first_block + parts.blocks <= config_.layers,
          "blocks {} to {} of a model of {}", parts.first_block, parts.first_block + parts.blocks,
          config_.layers);
    if (parts.has_embedding) {
        token_table_ = &token_table(root);
        token_use_ = token_table_->add_use();
        token_ends_ = (root / "embedding" / "tokens").ends();
        if (config_.positions == TransformerConfig::Positions::learned) {
            position_table_ = &(root / "embedding" / "positions")
                                   .weight({config_.max_positions, config_.width},
                                           Init::normal(config_.init_stddev));
            position_table_->add_use();
        }
        if (config_.embedding_norm)
            embedding_norm_.emplace(root / "embedding" / "norm", config_.width, config_.norm);
    }
    for (int64_t i = 0; i < parts.blocks; ++i) {
        const int64_t layer = parts.first_block + i;
        blocks_[static_cast<size_t>(layer)].emplace(root / "blocks" / layer, layer, config_);
    }
    if (!parts.has_head) return;
    final_norm_.emplace(root / "final_norm", config_.width, config_.norm);
    if (!config_.language_head) return;
    if (config_.tied_head)
        head_.emplace(root / "head", token_table_ ? *token_table_ : token_table(root));
    else
        head_.emplace(root / "head", config_.width, config_.vocab_size, /*bias=*/false,
                      config_.init_stddev, config_.vocab_multiple);
}

Tensor Transformer::look_up(const Batch& batch) const {
    const ops::WeightUse tokens{*token_table_, token_use_};
    if (!token_ends_)
        return position_table_
                   ? ops::embedding(batch.tokens, tokens, batch.positions, {*position_table_})
                   : ops::embedding(batch.tokens, tokens);
    // Every rank finds some of the tokens in its part of the table; positions come to the sum.
    const Tensor x = token_ends_->leave(ops::embedding(batch.tokens, tokens), batch.slice);
    if (!position_table_) return x;
    const Tensor positions = tokens_in(batch.positions, batch.slice);
    return ops::add(x, ops::embedding(positions, {*position_table_}));
}

Tensor Transformer::embed(const Batch& batch) const {
    const TraceRange range("embedding");
    Tensor x = look_up(batch);
    if (embedding_norm_) x = (*embedding_norm_)(x);
    return ops::dropout(x, config_.dropout, "embedding.dropout", batch.sample_ids,
                        batch.element_numbers(config_.width));
}

Tensor Transformer::run_block(int64_t layer, const Tensor& x, const Batch& batch,
                              const nn::InnerAttention& inner) const {
    const auto run = [&block = *blocks_[static_cast<size_t>(layer)], layer, batch,
                      &inner](const Tensor& input) {
        const std::string name = trace_sink() ? fmt::format("blocks.{}", layer) : "";
        const TraceRange range(name.c_str());
        return block(input, batch, inner);
    };
    return config_.recompute ? recompute(run, x) : run(x);
}

Tensor Transformer::run(size_t chunk, const Tensor& input, const Batch& batch,
                        const nn::InnerAttention& inner) const {
    const Parts& parts = chunks_.at(chunk);
    Tensor x = parts.has_embedding ? embed(batch) : input;
    for (int64_t i = 0; i < parts.blocks; ++i)
        x = run_block(parts.first_block + i, x, batch, inner);
    if (!parts.has_head) return x;
    const TraceRange range("final_norm");
    return (*final_norm_)(x);
}

Tensor Transformer::features(const Batch& batch, const nn::InnerAttention& inner) const {
    CHECK(chunks_.size() == 1 && chunks_[0].is_whole(config_.layers),
          "features of a transformer that is one stage of a pipeline");
    return run(0, {}, batch, inner);
}

Tensor Transformer::project(const Tensor& features) const {
    CHECK(head_, "this transformer was built without a language head");
    return (*head_)(features);
}

ops::Loss Transformer::loss(const Batch& batch, const Tensor& features) const {
    CHECK(head_, "this transformer was built without a language head");
    const TraceRange range("head");
    return ops::linear_cross_entropy(
        head_->enter(features, batch.slice), head_->weight(), batch.targets,
        {.valid_columns = config_.vocab_size,
         .z_loss = config_.z_loss,
         .ranks = head_->columns(),
         .pads_columns = ops::pads_columns_on(features.device().type)});
}

std::vector<Parameter*> Transformer::parameters_of(size_t chunk) const {
    const auto at = [&](size_t count) {
        return parameters_.all().begin() + static_cast<std::ptrdiff_t>(count);
    };
    return {at(chunk == 0 ? 0 : ends_[chunk - 1]), at(ends_.at(chunk))};
}

Chunk Transformer::chunk(size_t number) {
    Chunk chunk{.parts = chunks_[number],
                .parameters = parameters_of(number),
                .forward_parameters = {},
                .input_shape = [this](const Batch& batch) { return input_shape(batch); },
                .forward = {},
                .loss = {}};
    if (!chunk.parts.has_head) {
        chunk.forward = [this, number](const Batch& batch, const Tensor& x) {
            return run(number, x, batch, attention());
        };
        return chunk;
    }
    if (head_) chunk.forward_parameters.push_back(&head_->weight().parameter);
    chunk.loss = [this, number](const Batch& batch, const Tensor& x) {
        return loss(batch, run(number, x, batch, attention()));
    };
    return chunk;
}

std::vector<Phase> Transformer::phases() {
    Phase phase{.name = "language_model", .chunks = {}, .parameters = parameters_.all()};
    for (size_t number = 0; number < chunks_.size(); ++number)
        phase.chunks.push_back(chunk(number));
    return {std::move(phase)};
}

}  // namespace plinth::core::models
