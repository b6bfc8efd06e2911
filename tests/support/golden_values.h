// SPDX-License-Identifier: Apache-2.0
// The formulas of tests/golden/models/make_golden.py, which says what they are: weights and tokens
// that both sides compute, so that no weight is stored.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace plinth::test {

inline uint64_t fnv1a64(std::string_view text) {
    uint64_t hash = 14695981039346656037u;
    for (const char c : text)
        hash = (hash ^ static_cast<uint8_t>(c)) * 1099511628211u;
    return hash;
}

inline uint64_t splitmix64(uint64_t x) {
    uint64_t z = x + 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

/// 24 random bits, r(name, i).
inline int64_t golden_bits(std::string_view name, int64_t i) {
    return static_cast<int64_t>(splitmix64(fnv1a64(name) + static_cast<uint64_t>(i)) >> 40);
}

/// u(name, i) in [-1, 1), exact in fp32.
inline double golden_uniform(std::string_view name, int64_t i) {
    return static_cast<double>(golden_bits(name, i)) / 8388608.0 - 1.0;
}

/// Element i (row-major, global) of the parameter `name` before the first step.
inline float golden_weight(std::string_view name, int64_t i) {
    const double u = golden_uniform(name, i);
    if (name.ends_with("norm.weight")) return static_cast<float>(1.0 + 0.1 * u);
    return static_cast<float>((name.ends_with(".bias") ? 0.02 : 0.08) * u);
}

/// One step's batch, row-major [B, T]. A label that does not count is -100.
struct GoldenBatch {
    std::vector<int32_t> tokens;
    std::vector<int32_t> labels;
};

inline GoldenBatch golden_batch(int step, int64_t B, int64_t T, int64_t vocab) {
    const std::string tokens_name = "tokens." + std::to_string(step);
    const std::string ignored_name = "ignored." + std::to_string(step);
    GoldenBatch batch;
    for (int64_t b = 0; b < B; ++b) {
        int64_t token = golden_bits(tokens_name, b * (T + 1)) % vocab;
        for (int64_t t = 0; t < T; ++t) {
            batch.tokens.push_back(static_cast<int32_t>(token));
            token = (5 * token + 1 + golden_bits(tokens_name, b * (T + 1) + t + 1) % 3) % vocab;
            const bool ignored = golden_bits(ignored_name, b * T + t) % 16 == 0;
            batch.labels.push_back(ignored ? -100 : static_cast<int32_t>(token));
        }
    }
    return batch;
}

/// The checksum of a `grad` or `param` line: sum_i value_i u(name + "probe", i), in fp64.
template <typename Range>
double golden_probe(std::string_view name, const Range& values) {
    const std::string probe = std::string(name) + "probe";
    double sum = 0.0;
    int64_t i = 0;
    for (const auto value : values)
        sum += static_cast<double>(value) * golden_uniform(probe, i++);
    return sum;
}

}  // namespace plinth::test
