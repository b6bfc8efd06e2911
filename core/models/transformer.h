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
/// ordered list of parts that pass one tensor x [B, T, D]: there a pipeline may cut.
class Transformer final : public Model {
  public:
    explicit Transformer(const TransformerConfig& config);

    const TransformerConfig& config() const { return config_; }
    nn::ParameterSet& parameters() override { return parameters_; }
    /// One phase, "language_model".
    std::vector<Phase> phases() override;

    Tensor embed(const Batch& batch) const;
    Tensor run_block(size_t layer, const Tensor& x, const Batch& batch,
                     const nn::InnerAttention& inner = nn::full_attention()) const;
    /// Final norm and projection: logits [B, T, padded V].
    Tensor head(const Tensor& x) const;
    /// After the final norm: features [B, T, D] for other heads.
    Tensor features(const Batch& batch,
                    const nn::InnerAttention& inner = nn::full_attention()) const;
    Tensor logits(const Batch& batch) const { return project(features(batch)); }
    Tensor project(const Tensor& features) const;
    /// Next-token cross-entropy summed over the tokens that are not ignored.
    ops::Loss loss(const Batch& batch) const;

    const std::vector<TransformerBlock>& blocks() const { return blocks_; }
    const nn::Norm& final_norm() const { return *final_norm_; }

  private:
    TransformerConfig config_;
    nn::ParameterSet parameters_;
    Parameter* token_table_ = nullptr;
    int token_use_ = 0;
    Parameter* position_table_ = nullptr;
    std::optional<nn::Norm> embedding_norm_;
    std::vector<TransformerBlock> blocks_;
    std::optional<nn::Norm> final_norm_;
    std::optional<nn::Linear> head_;
};

}  // namespace plinth::core::models
