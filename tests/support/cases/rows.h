// SPDX-License-Identifier: Apache-2.0
// Shapes of row-wise ops, for their tests and benchmarks.
#pragma once

#include <cstdint>
#include <vector>

namespace plinth::test {

struct RowsCase {
    const char* name;
    int64_t rows, width;
    double elements() const { return static_cast<double>(rows * width); }
};

/// Odd sizes: 1, primes, no multiple of a vector, more rows than a reduction block.
inline const std::vector<RowsCase> rows_test_cases = {
    {"one", 1, 1}, {"row", 1, 17}, {"column", 13, 1}, {"primes", 29, 31}, {"blocks", 193, 67}};

inline const std::vector<RowsCase> rows_benchmark_cases = {
    {"gpt2", 4096, 768}, {"gpt2 ffn", 4096, 3072}, {"small", 4096, 384}};

}  // namespace plinth::test
