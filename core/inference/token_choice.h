// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>

namespace plinth::core::inference {

/// How the next token is drawn from the logits.
struct TokenChoice {
    double temperature = 1.0;  ///< 0: the most likely token
    int64_t top_k = 0;         ///< only the k most likely tokens; 0: all
    double top_p = 1.0;        ///< only the most likely tokens whose probabilities first sum to p
                               ///< (Holtzman et al. 2020)
    uint64_t seed = 0;
};

/// Token number `position` of sequence `sequence`, drawn by a random number that is a function of
/// (seed, sequence, position): the same with and without a cache, alone and in a batch. Ties go to
/// the lower id. Non-finite logits are an internal error.
int32_t choose_token(std::span<const float> logits, const TokenChoice& choice, uint64_t sequence,
                     uint64_t position);

}  // namespace plinth::core::inference
