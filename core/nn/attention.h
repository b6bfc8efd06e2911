// SPDX-License-Identifier: Apache-2.0
// B batch, T tokens, D width, H query heads, G key/value heads, K head width.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/nn/batch.h"
#include "core/nn/declaration.h"
#include "core/nn/linear.h"
#include "core/ops/attention.h"
#include "core/ops/rotary.h"

namespace plinth::core::nn {

struct AttentionConfig {
    int64_t width = 0;
    int64_t heads = 0;
    int64_t kv_heads = 0;
    int64_t head_width = 0;
    bool causal = true;
    int64_t window = 0;  ///< kernels::Attention::window
    bool qkv_bias = true;
    bool output_bias = true;
    bool qk_norm = false;
    double norm_eps = 1e-5;
    bool alibi = false;
    std::optional<kernels::Rotary> rotary;
    double dropout = 0.0;
    double init_stddev = 0.02;
    double output_init_stddev = 0.02;

    int64_t qkv_width() const { return (heads + 2 * kv_heads) * head_width; }
};

/// ALiBi's slopes of the heads of a layer that are here, or none.
class AlibiSlopes {
  public:
    AlibiSlopes() = default;  ///< none
    /// Of heads [first, first + heads) of `all`.
    AlibiSlopes(int64_t all, int64_t first, int64_t heads)
        : all_(all), first_(first), heads_(heads) {}
    /// fp32 [heads], or undefined. Uploaded by the first call, as weights are; from then on it is
    /// there and stays, so that captured work may read it.
    const Tensor& get() const;

  private:
    int64_t all_ = 0, first_ = 0, heads_ = 0;
    mutable Tensor uploaded_;
};

/// What a layer tells the attention between its projections. Heads are those of this rank.
struct InnerAttentionCall {
    int64_t layer = 0;
    kernels::Attention options;
    AlibiSlopes slopes;
    std::string dropout_name;
};

/// What stands between the projections: full attention over the batch, attention over a key-value
/// cache, a ring of ranks.
class InnerAttention {
  public:
    virtual ~InnerAttention() = default;
    /// [B, T, H K] from packed, rotated qkv [B, T, (H + 2 G) K] of one layer.
    virtual Tensor attend(const InnerAttentionCall& call, const Tensor& qkv,
                          const Batch& batch) const = 0;
};

/// Every token of the batch, with a tape.
class FullAttention final : public InnerAttention {
  public:
    Tensor attend(const InnerAttentionCall& call, const Tensor& qkv,
                  const Batch& batch) const override;
};

/// The one that training uses unless the layout says otherwise. It has no state.
const InnerAttention& full_attention();

/// Multi-head or grouped-query self-attention: one product for q, k and v, positions, softmax
/// attention, one product back. How many heads are here follows from the width of that product.
class SelfAttention {
  public:
    SelfAttention(const Declaration& at, int64_t layer, const AttentionConfig& config);

    /// x and y: the batch's slice of [B, T, D].
    Tensor operator()(const Tensor& x, const Batch& batch, const InnerAttention& inner) const;

  private:
    AttentionConfig config_;
    InnerAttentionCall call_;
    Linear qkv_;
    Parameter* q_norm_ = nullptr;
    Parameter* k_norm_ = nullptr;
    Linear output_;
};

}  // namespace plinth::core::nn
