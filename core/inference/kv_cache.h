// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "core/nn/attention.h"

namespace plinth::core::inference {

/// Keys and values of the tokens seen so far, for every layer that runs here: [B, capacity, G K]
/// each, G the key/value heads of this rank. A layer's memory comes with its first tokens.
class KeyValueCache final : public nn::InnerAttention {
  public:
    struct Config {
        int64_t layers = 0;
        int64_t batch = 0;
        int64_t capacity = 0;  ///< tokens of a sequence
        DType dtype = DType::f32;
    };
    explicit KeyValueCache(const Config& config);

    int64_t capacity() const { return config_.capacity; }
    /// Tokens of sequence b in the cache.
    int64_t length(int64_t b) const { return starts_[static_cast<size_t>(b)]; }
    /// Counts the tokens of the last forward pass as seen: counts[b] of sequence b. What lies
    /// behind is overwritten by the next.
    void advance(const std::vector<int32_t>& counts);

    /// Appends the new tokens and attends to all.
    Tensor attend(const nn::InnerAttentionCall& call, const Tensor& qkv,
                  const Batch& batch) const override;

  private:
    Config config_;
    std::vector<int32_t> starts_;
    mutable std::vector<Tensor> keys_;
    mutable std::vector<Tensor> values_;
};

}  // namespace plinth::core::inference
