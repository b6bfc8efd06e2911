// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "core/models/model.h"
#include "core/models/transformer_block.h"
#include "core/models/transformer_config.h"

namespace plinth::core::models {

/// A decoder or encoder stack: embedding, L pre-norm blocks, final norm, head. It runs as an
/// ordered list of parts that pass one tensor x, the batch's slice of [B, T, D]: there a pipeline
/// may cut.
class Transformer final : public Model {
  public:
    /// The whole model.
    explicit Transformer(const TransformerConfig& config,
                         const nn::Layout& layout = nn::whole_layout())
        : Transformer(config, std::vector<Parts>{Parts::whole(config.layers)}, layout) {}
    /// Only these parts of it, in model order, with the names, shapes and initial values that their
    /// parameters have in the whole model; a tied head away from the embedding declares the token
    /// table as its own.
    Transformer(const TransformerConfig& config, std::vector<Parts> chunks,
                const nn::Layout& layout = nn::whole_layout());

    const TransformerConfig& config() const { return config_; }
    nn::ParameterSet& parameters() override { return parameters_; }
    /// One phase, "language_model".
    std::vector<Phase> phases() override;
    const std::vector<Parts>& chunks() const { return chunks_; }
    /// Parameters that a chunk declares.
    std::vector<Parameter*> parameters_of(size_t chunk) const;

    /// One chunk: its x from that of the chunk before, which the first one does not look at. The
    /// last one gives features, after the final norm.
    Tensor run(size_t chunk, const Tensor& x, const Batch& batch,
               const nn::InnerAttention& inner) const;
    /// Of the whole model: features, the batch's slice of [B, T, D], after the final norm, for
    /// other heads.
    Tensor features(const Batch& batch, const nn::InnerAttention& inner) const;
    Tensor features(const Batch& batch) const { return features(batch, attention()); }
    /// The attention of batches that are shared as the layout says.
    const nn::InnerAttention& attention() const {
        return attention_ ? *attention_ : nn::full_attention();
    }
    /// Logits [B, T, padded V] of a whole model.
    Tensor logits(const Batch& batch) const { return project(features(batch)); }
    /// The head's product alone, of whole sequences or of any rows.
    Tensor project(const Tensor& features) const;
    /// Next-token cross-entropy summed over the tokens that are not ignored, of a whole model.
    ops::Loss loss(const Batch& batch) const { return loss(batch, features(batch)); }
    /// The same from the features.
    ops::Loss loss(const Batch& batch, const Tensor& features) const;
    /// The batch's slice of [B, T, D].
    Shape input_shape(const Batch& batch) const {
        return {batch.samples(), batch.slice.is_whole() ? batch.length() : batch.slice.count,
                config_.width};
    }

  private:
    void declare(const Parts& parts, const nn::Declaration& root);
    Parameter& token_table(const nn::Declaration& root) const;
    Tensor look_up(const Batch& batch) const;
    Tensor embed(const Batch& batch) const;
    Tensor run_block(int64_t layer, const Tensor& x, const Batch& batch,
                     const nn::InnerAttention& inner) const;
    Chunk chunk(size_t number);

    TransformerConfig config_;
    std::shared_ptr<const nn::InnerAttention> attention_;  ///< null: full attention
    std::vector<Parts> chunks_;
    nn::ParameterSet parameters_;
    std::vector<size_t> ends_;  ///< by chunk: parameters declared up to its end
    Parameter* token_table_ = nullptr;
    int token_use_ = 0;
    std::shared_ptr<const nn::Ends> token_ends_;
    Parameter* position_table_ = nullptr;
    std::optional<nn::Norm> embedding_norm_;
    std::vector<std::optional<TransformerBlock>> blocks_;  ///< by layer; empty: not of these parts
    std::optional<nn::Norm> final_norm_;
    std::optional<nn::Linear> head_;
};

}  // namespace plinth::core::models
