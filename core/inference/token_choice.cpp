// SPDX-License-Identifier: Apache-2.0
#include "core/inference/token_choice.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "kernels/runtime/error.h"
#include "kernels/runtime/philox.h"

namespace plinth::core::inference {

namespace {

struct Candidate {
    int32_t token;
    double probability;  // not yet normalised
};

/// The tokens that may be drawn, most likely first.
std::vector<Candidate> candidates(std::span<const float> logits, const TokenChoice& choice) {
    std::vector<int32_t> order(logits.size());
    std::iota(order.begin(), order.end(), 0);
    const auto more_likely = [&](int32_t a, int32_t b) {
        const float x = logits[static_cast<size_t>(a)], y = logits[static_cast<size_t>(b)];
        return x != y ? x > y : a < b;
    };
    size_t kept = order.size();
    if (choice.top_k > 0) kept = std::min(kept, static_cast<size_t>(choice.top_k));
    std::partial_sort(order.begin(), order.begin() + static_cast<ptrdiff_t>(kept), order.end(),
                      more_likely);
    std::vector<Candidate> result;
    const double highest = static_cast<double>(logits[static_cast<size_t>(order.front())]);
    for (size_t i = 0; i < kept; ++i) {
        const double logit = static_cast<double>(logits[static_cast<size_t>(order[i])]);
        result.push_back({order[i], std::exp((logit - highest) / choice.temperature)});
    }
    return result;
}

/// Cuts the tail after the first tokens whose share reaches p; returns the sum of what stays.
double cut_nucleus(std::vector<Candidate>& tokens, double p) {
    double total = 0.0;
    for (const Candidate& token : tokens)
        total += token.probability;
    double sum = 0.0;
    for (size_t i = 0; i < tokens.size(); ++i) {
        sum += tokens[i].probability;
        if (sum >= p * total) {
            tokens.resize(i + 1);
            break;
        }
    }
    return sum;
}

}  // namespace

int32_t choose_token(std::span<const float> logits, const TokenChoice& choice, uint64_t sequence,
                     uint64_t position) {
    CHECK(!logits.empty(), "a token cannot be chosen from no logits");
    for (float logit : logits)
        CHECK(std::isfinite(logit), "a logit is {}: the model's weights are not finite", logit);
    if (choice.temperature <= 0.0)
        return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) -
                                    logits.begin());
    std::vector<Candidate> tokens = candidates(logits, choice);
    const double sum = cut_nucleus(tokens, choice.top_p);
    const auto words = RandomKey(choice.seed, "generate.token").words(position, sequence);
    const uint64_t bits = (uint64_t{words[0]} << 21) ^ (words[1] >> 11);
    double left = static_cast<double>(bits & ((uint64_t{1} << 53) - 1)) * 0x1p-53 * sum;
    for (const Candidate& token : tokens) {
        left -= token.probability;
        if (left < 0.0) return token.token;
    }
    return tokens.back().token;
}

}  // namespace plinth::core::inference
