// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <vector>

#include "kernels/attention.h"
#include "tests/support/cases/attention.h"

namespace plinth::test {

/// What the oracle's dropout is keyed by, beside seed 42 and step 3.
inline constexpr const char* attention_dropout_name = "blocks.0.attention";
inline constexpr int64_t first_sample = 5'000'000'000;

/// Documents of uneven lengths; their numbers are no positions, and differ between samples.
inline std::vector<int32_t> document_ids(const AttentionCase& c) {
    std::vector<int32_t> ids;
    for (int64_t b = 0; b < c.batch; ++b)
        for (int64_t t = 0; t < c.tokens; ++t)
            ids.push_back(static_cast<int32_t>(10 * b + (t + 31 * b) / 45));
    return ids;
}

/// The factor of one attention weight under dropout, from the documented numbering.
inline double kept_share(const AttentionCase& c, int64_t b, int64_t h, int64_t q, int64_t k) {
    if (c.dropout == 0.0f) return 1.0;
    const RandomKey random(42, attention_dropout_name, 3);
    const auto index = static_cast<uint64_t>((h << 48) | (q << 24) | (k / 4));
    const uint32_t word =
        random.words(index, static_cast<uint64_t>(first_sample + b))[static_cast<size_t>(k % 4)];
    return static_cast<double>(word) < static_cast<double>(c.dropout) * 0x1p32
               ? 0.0
               : 1.0 / (1.0 - static_cast<double>(c.dropout));
}

/// The oracle: one row of softmax after the other, in double.
class AttentionOracle {
  public:
    AttentionOracle(const AttentionCase& c, std::vector<float> qkv)
        : case_(c), qkv_(std::move(qkv)), documents_(document_ids(c)) {}

    std::vector<double> forward() const {
        std::vector<double> y(static_cast<size_t>(case_.batch * case_.tokens * width_of_y()));
        for_rows([&](int64_t b, int64_t h, int64_t q) {
            const std::vector<double> p = weights(b, h, q);
            for (int64_t k = 0; k < case_.tokens; ++k)
                for (int64_t d = 0; d < case_.width; ++d)
                    y[at_y(b, q, h, d)] += p[static_cast<size_t>(k)] *
                                           kept_share(case_, b, h, q, k) *
                                           value(b, k, v_head(h), d);
        });
        return y;
    }

    std::vector<double> backward(const std::vector<float>& dy) const {
        std::vector<double> dqkv(qkv_.size());
        for_rows([&](int64_t b, int64_t h, int64_t q) {
            const std::vector<double> p = weights(b, h, q);
            std::vector<double> dp(p.size());
            double mean = 0.0;
            for (int64_t k = 0; k < case_.tokens; ++k) {
                const auto i = static_cast<size_t>(k);
                const double keep = kept_share(case_, b, h, q, k);
                for (int64_t d = 0; d < case_.width; ++d) {
                    const auto g = static_cast<double>(dy[at_y(b, q, h, d)]);
                    dp[i] += g * keep * value(b, k, v_head(h), d);
                    dqkv[at(b, k, v_head(h), d)] += g * keep * p[i];
                }
                mean += p[i] * dp[i];
            }
            for (int64_t k = 0; k < case_.tokens; ++k) {
                const auto i = static_cast<size_t>(k);
                const double ds = p[i] * (dp[i] - mean) / std::sqrt(double(case_.width));
                for (int64_t d = 0; d < case_.width; ++d) {
                    dqkv[at(b, q, h, d)] += ds * value(b, k, k_head(h), d);
                    dqkv[at(b, k, k_head(h), d)] += ds * value(b, q, h, d);
                }
            }
        });
        return dqkv;
    }

  private:
    int64_t width_of_y() const { return case_.heads * case_.width; }
    int64_t k_head(int64_t h) const { return case_.heads + h * case_.kv_heads / case_.heads; }
    int64_t v_head(int64_t h) const { return k_head(h) + case_.kv_heads; }
    size_t at(int64_t b, int64_t t, int64_t head, int64_t d) const {
        return static_cast<size_t>((b * case_.tokens + t) * case_.columns() + head * case_.width +
                                   d);
    }
    size_t at_y(int64_t b, int64_t t, int64_t h, int64_t d) const {
        return static_cast<size_t>((b * case_.tokens + t) * width_of_y() + h * case_.width + d);
    }
    double value(int64_t b, int64_t t, int64_t head, int64_t d) const {
        return static_cast<double>(qkv_[at(b, t, head, d)]);
    }
    template <typename Body>
    void for_rows(Body&& body) const {
        for (int64_t b = 0; b < case_.batch; ++b)
            for (int64_t h = 0; h < case_.heads; ++h)
                for (int64_t q = 0; q < case_.tokens; ++q)
                    body(b, h, q);
    }
    bool sees(int64_t b, int64_t q, int64_t k) const {
        if (case_.causal && k > q) return false;
        if (case_.window > 0 && q - k >= case_.window) return false;
        return !case_.documents || documents_[static_cast<size_t>(b * case_.tokens + q)] ==
                                       documents_[static_cast<size_t>(b * case_.tokens + k)];
    }
    std::vector<double> weights(int64_t b, int64_t h, int64_t q) const {
        const double slope =
            case_.alibi ? double(kernels::alibi_slopes(case_.heads)[static_cast<size_t>(h)]) : 0.0;
        std::vector<double> p(static_cast<size_t>(case_.tokens));
        double sum = 0.0;
        for (int64_t k = 0; k < case_.tokens; ++k) {
            if (!sees(b, q, k)) continue;
            double dot = 0.0;
            for (int64_t d = 0; d < case_.width; ++d)
                dot += value(b, q, h, d) * value(b, k, k_head(h), d);
            const double score = dot / std::sqrt(double(case_.width)) + slope * double(k - q);
            sum += p[static_cast<size_t>(k)] = std::exp(score);
        }
        for (double& weight : p)
            weight /= sum;
        return p;
    }

    const AttentionCase& case_;
    std::vector<float> qkv_;
    std::vector<int32_t> documents_;
};

}  // namespace plinth::test
