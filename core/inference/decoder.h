// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <optional>
#include <vector>

#include "core/inference/token_choice.h"
#include "core/models/transformer.h"

namespace plinth::core::inference {

struct DecodeConfig {
    int64_t max_tokens = 128;          ///< new tokens of each sequence
    std::optional<int32_t> end_token;  ///< ends a sequence
    /// Only ids below it are chosen: a model's vocabulary may be larger than its tokenizer's. 0:
    /// all.
    int64_t vocab_size = 0;
    TokenChoice choice;
    /// The number of the first prompt among all, by which its tokens are drawn.
    uint64_t first_sequence = 0;
    bool use_cache = true;  ///< false: the whole sequence runs again for every token
};

/// Called with every new token but the end token, as it appears; the sequences come one after the
/// other.
using OnToken = std::function<void(size_t sequence, int32_t token)>;

/// How a model runs of which this rank has only some parts: the ranks that have them decode the
/// same prompts together.
class Relay {
  public:
    virtual ~Relay() = default;
    /// Features [1, T, D] of the new tokens; undefined on ranks without the last part.
    virtual Tensor features(const Batch& batch, const nn::InnerAttention& inner) = 0;
    /// The token that the rank with the last part has chosen, on all of them.
    virtual int32_t agree(int32_t token) = 0;
};

/// Continues each prompt (at least one token). Sequences end at the end token, after max_tokens, or
/// when the model's positions are used up. The tokens of a sequence do not depend on the other
/// prompts. Needs a scope without a tape, and a relay where the model is not whole.
std::vector<std::vector<int32_t>> decode(const models::Transformer& model,
                                         const std::vector<std::vector<int32_t>>& prompts,
                                         const DecodeConfig& config, const OnToken& on_token = {},
                                         Relay* relay = nullptr);

}  // namespace plinth::core::inference
