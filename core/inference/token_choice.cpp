// SPDX-License-Identifier: Apache-2.0
#include "core/inference/token_choice.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/runtime/error.h"
#include "kernels/runtime/philox.h"

namespace plinth::core::inference {

namespace {

struct Candidate {
    int32_t token;
    float logit;
    double weight;  ///< exp((logit - highest) / temperature): a probability, not yet normalised
};

bool is_likelier(const Candidate& a, const Candidate& b) {
    return a.logit != b.logit ? a.logit > b.logit : a.token < b.token;
}

/// Every token, by id, not yet weighed.
std::vector<Candidate> all_tokens(std::span<const float> logits) {
    std::vector<Candidate> tokens;
    tokens.reserve(logits.size());
    for (size_t i = 0; i < logits.size(); ++i)
        tokens.push_back({static_cast<int32_t>(i), logits[i], 0.0});
    return tokens;
}

void weigh(std::vector<Candidate>& tokens, double highest, double temperature) {
    for (Candidate& token : tokens)
        token.weight = std::exp((static_cast<double>(token.logit) - highest) / temperature);
}

double sum_of(const std::vector<Candidate>& tokens) {
    double sum = 0.0;
    for (const Candidate& token : tokens)
        sum += token.weight;
    return sum;
}

/// Keeps the k likeliest, likeliest first.
void keep_top(std::vector<Candidate>& tokens, int64_t k) {
    const size_t kept = std::min(tokens.size(), static_cast<size_t>(k));
    std::partial_sort(tokens.begin(), tokens.begin() + static_cast<ptrdiff_t>(kept), tokens.end(),
                      is_likelier);
    tokens.resize(kept);
}

/// Keeps the likeliest tokens up to the one with which their share reaches p, likeliest first. A
/// heap, because a nucleus is usually far smaller than a vocabulary: no sort of all.
void keep_nucleus(std::vector<Candidate>& tokens, double p) {
    const auto is_less_likely = [](const Candidate& a, const Candidate& b) {
        return is_likelier(b, a);
    };
    const double wanted = p * sum_of(tokens);
    std::vector<Candidate> nucleus;
    std::make_heap(tokens.begin(), tokens.end(), is_less_likely);
    for (double sum = 0.0; sum < wanted && !tokens.empty(); sum += nucleus.back().weight) {
        std::pop_heap(tokens.begin(), tokens.end(), is_less_likely);
        nucleus.push_back(tokens.back());
        tokens.pop_back();
    }
    tokens = std::move(nucleus);
}

}  // namespace

int32_t choose_token(std::span<const float> logits, const TokenChoice& choice, uint64_t sequence,
                     uint64_t position) {
    CHECK(!logits.empty(), "a token cannot be chosen from no logits");
    for (float logit : logits)
        CHECK(std::isfinite(logit), "a logit is {}: the model's weights are not finite", logit);
    const auto likeliest = std::max_element(logits.begin(), logits.end());
    if (choice.temperature <= 0.0) return static_cast<int32_t>(likeliest - logits.begin());
    std::vector<Candidate> tokens = all_tokens(logits);
    if (choice.top_k > 0) keep_top(tokens, choice.top_k);
    weigh(tokens, static_cast<double>(*likeliest), choice.temperature);
    if (choice.top_p < 1.0) keep_nucleus(tokens, choice.top_p);
    const auto words = RandomKey(choice.seed, "generate.token").words(position, sequence);
    const uint64_t bits = (uint64_t{words[0]} << 21) ^ (words[1] >> 11);
    double left = static_cast<double>(bits & ((uint64_t{1} << 53) - 1)) * 0x1p-53 * sum_of(tokens);
    for (const Candidate& token : tokens) {
        left -= token.weight;
        if (left < 0.0) return token.token;
    }
    return tokens.back().token;
}

}  // namespace plinth::core::inference
