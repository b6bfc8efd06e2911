// SPDX-License-Identifier: Apache-2.0
// One description of the op's cases serves its test and its benchmark.
#pragma once

#include <cstdint>
#include <vector>

namespace plinth::test {

struct MatmulCase {
    const char* name;
    int64_t rows, inputs, outputs;
    double flops() const { return 2.0 * static_cast<double>(rows * inputs * outputs); }
};

/// Odd sizes: 1, primes, no multiple of a vector, and K so long that a library would split it.
inline const std::vector<MatmulCase> matmul_test_cases = {
    {"one", 1, 1, 1},           {"row", 1, 17, 5},        {"primes", 13, 31, 7},
    {"column", 29, 3, 1},       {"vector+1", 33, 65, 17}, {"long K", 192, 2048, 64},
    {"longer K", 97, 4096, 101}};

inline const std::vector<MatmulCase> matmul_benchmark_cases = {
    {"gpt2 qkv", 256, 768, 2304},     {"gpt2 fc", 256, 768, 3072},
    {"gpt2 logits", 256, 768, 50257}, {"gpt2 qkv T=1024", 4096, 768, 2304},
    {"small proj", 4096, 384, 384},   {"small fc", 4096, 384, 1536}};

}  // namespace plinth::test
