// SPDX-License-Identifier: Apache-2.0
// Packed query, key and value heads, for the rows rotary and qk_norm.
#pragma once

#include <cstdint>
#include <vector>

namespace plinth::test {

struct HeadsCase {
    const char* name;
    int64_t batch, tokens, heads, kv_heads, width;

    int64_t columns() const { return (heads + 2 * kv_heads) * width; }
    int64_t elements() const { return batch * tokens * columns(); }
};

inline const std::vector<HeadsCase> heads_test_cases = {{"one", 1, 1, 1, 1, 2},
                                                        {"primes", 3, 7, 3, 1, 10},
                                                        {"grouped", 2, 37, 6, 2, 34},
                                                        {"wide", 1, 131, 2, 2, 128}};

inline const std::vector<HeadsCase> heads_benchmark_cases = {
    {"llama 1B T=1024", 1, 1024, 32, 8, 64}, {"llama 8B one token", 1, 1, 32, 8, 128}};

}  // namespace plinth::test
