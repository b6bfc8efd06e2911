// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "core/models/transformer_config.h"
#include "core/nn/attention.h"
#include "core/nn/mlp.h"
#include "core/nn/norm.h"

namespace plinth::core::models {

/// Pre-norm residual block: x += dropout(attention(norm x)); x += dropout(mlp(norm x)).
class TransformerBlock {
  public:
    TransformerBlock(const nn::Declaration& at, int64_t layer, const TransformerConfig& config);

    /// The batch's slice of [B, T, D], in and out.
    Tensor operator()(const Tensor& x, const Batch& batch, const nn::InnerAttention& inner) const;

  private:
    /// x with the attention branch, and the norm of that.
    ops::NormedSum attend(const Tensor& x, const Batch& batch,
                          const nn::InnerAttention& inner) const;

    double dropout_;
    std::string attention_dropout_name_;
    std::string mlp_dropout_name_;
    nn::Norm attention_norm_;
    nn::SelfAttention attention_;
    nn::Norm mlp_norm_;
    nn::Mlp mlp_;
};

}  // namespace plinth::core::models
