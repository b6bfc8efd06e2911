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

void squared_block_sums(View block_sums, std::vector<ConstView> gradients, Stream& stream) {
    std::vector<int64_t> first_block{0};
    for (const ConstView& gradient : gradients) {
        CHECK(gradient.is_contiguous(), "squared_block_sums: of {}", gradient.shape.text());
        first_block.push_back(first_block.back() + gradient_blocks(gradient.elements()));
    }
    const int64_t blocks = first_block.back();
    CHECK(block_sums.elements() == blocks && block_sums.is_contiguous(),
          "squared_block_sums: {} sums of {} blocks", block_sums.elements(), blocks);
    double* sums = block_sums.as<double>();
    parallel_for(stream, blocks, 32, [&](int64_t begin, int64_t end) {
        const auto next = std::upper_bound(first_block.begin(), first_block.end(), begin);
        auto at = static_cast<size_t>(next - first_block.begin() - 1);
        for (int64_t block = begin; block < end; ++block) {
            while (block >= first_block[at + 1])
                ++at;
            const int64_t first = (block - first_block[at]) * norm_block;
            sums[block] = sum_of_squares(gradients[at].as<float>() + first,
                                         std::min(norm_block, gradients[at].elements() - first));
        }
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
