// SPDX-License-Identifier: Apache-2.0
// One description of the op's cases serves its test and its benchmark.
#pragma once

#include <cstdint>
#include <vector>

namespace plinth::test {

struct AttentionCase {
    const char* name;
    int64_t batch, tokens, heads, kv_heads, width;
    bool causal = true;
    bool alibi = false;
    bool documents = false;
    float dropout = 0.0f;
    int64_t window = 0;

    int64_t columns() const { return (heads + 2 * kv_heads) * width; }
    /// Two products forward; a causal query sees half of the keys, with a window a band of them.
    double flops() const {
        const auto T = static_cast<double>(tokens);
        const double W = window > 0 && window < tokens ? static_cast<double>(window) : T;
        return 4.0 * static_cast<double>(batch * heads * width) *
               (causal ? T * W - W * W / 2 : T * T);
    }
};

/// Odd sizes, sequences around the borders of blocks of 64, each mask, and too few heads for the
/// threads, so that backward is cut into pieces.
inline const std::vector<AttentionCase> attention_test_cases = {
    {"one", 1, 1, 1, 1, 1},
    {"primes", 2, 7, 3, 3, 5},
    {"block", 1, 64, 2, 2, 16},
    {"block+1", 2, 65, 2, 1, 17},
    {"two blocks and more", 1, 131, 4, 2, 24},
    {"grouped", 3, 50, 6, 2, 8},
    {"bidirectional", 2, 70, 2, 2, 13, false},
    {"alibi", 1, 97, 3, 3, 8, true, true},
    {"documents", 2, 150, 2, 1, 8, true, false, true},
    {"bidirectional documents", 1, 200, 2, 2, 8, false, false, true},
    {"dropout", 2, 67, 2, 2, 8, true, false, false, 0.25f},
    {"window within a block", 2, 150, 2, 1, 8, true, false, false, 0.0f, 23},
    {"window of a block", 1, 200, 2, 2, 8, true, false, false, 0.0f, 64},
    {"window over blocks", 1, 260, 2, 1, 13, true, false, false, 0.0f, 100},
    {"window of two", 1, 70, 1, 1, 8, true, false, false, 0.0f, 2},
    {"everything", 2, 130, 4, 2, 20, true, true, true, 0.1f},
    {"everything in a window", 2, 210, 4, 2, 20, true, true, true, 0.1f, 75},
    {"many heads", 4, 33, 8, 8, 8}};

inline const std::vector<AttentionCase> attention_benchmark_cases = {
    {"gpt2 B=4 T=1024", 4, 1024, 12, 12, 64},
    {"gpt2 B=1 T=1024", 1, 1024, 12, 12, 64},
    {"gpt2 B=4 T=64", 4, 64, 12, 12, 64},
    {"small B=16 T=256", 16, 256, 6, 6, 64},
    {"llama B=1 T=1024 K=128", 1, 1024, 8, 2, 128},
    {"llama, window of 256", 1, 1024, 8, 2, 128, true, false, false, 0.0f, 256}};

}  // namespace plinth::test
