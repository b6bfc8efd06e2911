// SPDX-License-Identifier: Apache-2.0
#include "kernels/grad_norm.h"

#include <algorithm>
#include <cmath>

#include "kernels/exact_sum.h"
#include "kernels/simd.h"

namespace plinth::kernels::cpu {

namespace {

/// Eight running sums, added in order: the bits do not depend on the width of a vector.
PLINTH_SIMD double sum_of_squares(const float* x, int64_t n) {
    double lanes[8] = {};
    const int64_t whole = n / 8 * 8;
    for (int64_t i = 0; i < whole; i += 8)
        for (int64_t j = 0; j < 8; ++j)
            lanes[j] += static_cast<double>(x[i + j]) * static_cast<double>(x[i + j]);
    double sum = 0.0;
    for (double lane : lanes)
        sum += lane;
    for (int64_t i = whole; i < n; ++i)
        sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
    return sum;
}

}  // namespace

void squared_block_sums(View block_sums, ConstView gradient, Stream& stream) {
    const int64_t n = gradient.elements(), blocks = (n + norm_block - 1) / norm_block;
    CHECK(block_sums.elements() == blocks && gradient.is_contiguous(),
          "squared_block_sums: {} sums of {}", block_sums.elements(), gradient.shape.text());
    const float* x = gradient.as<float>();
    double* sums = block_sums.as<double>();
    parallel_for(stream, blocks, 32, [&](int64_t begin, int64_t end) {
        for (int64_t block = begin; block < end; ++block)
            sums[block] = sum_of_squares(x + block * norm_block,
                                         std::min(norm_block, n - block * norm_block));
    });
}

void exact_sum_of_blocks(View words, ConstView block_sums, Stream&) {
    CHECK(words.elements() == ExactSum::limb_count + 1 && block_sums.is_contiguous(),
          "exact_sum_of_blocks: {} words for {}", words.elements(), block_sums.shape.text());
    ExactSum sum;
    int64_t left_out = 0;
    const double* squares = block_sums.as<double>();
    for (int64_t i = 0; i < block_sums.elements(); ++i)
        if (std::isfinite(squares[i]) && !std::signbit(squares[i]))
            sum.add(squares[i]);
        else
            ++left_out;
    const std::span<int64_t> limbs = sum.limbs();
    *std::copy(limbs.begin(), limbs.end(), words.as<int64_t>()) = left_out;
}

}  // namespace plinth::kernels::cpu
