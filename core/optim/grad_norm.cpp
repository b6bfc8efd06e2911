// SPDX-License-Identifier: Apache-2.0
#include "core/optim/grad_norm.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "kernels/exact_sum.h"
#include "kernels/grad_norm.h"

namespace plinth::core::optim {

namespace {

using Words = std::array<int64_t, kernels::ExactSum::limb_count + 1>;

Words read_words(const Tensor& words, Stream& stream) {
    Words values{};
    std::ranges::copy(words.read<int64_t>(stream), values.begin());
    return values;
}

}  // namespace

Tensor sum_of_squares(std::span<const ParameterGradient> mine, CachingAllocator& allocator,
                      Stream& stream) {
    int64_t blocks = 0;
    std::vector<ConstView> gradients;
    for (const ParameterGradient& entry : mine) {
        blocks += kernels::gradient_blocks(entry.gradient.elements());
        gradients.emplace_back(entry.gradient);
    }
    Tensor block_sums = Tensor::empty({blocks}, DType::f64, allocator);
    kernels::squared_block_sums(block_sums.out(), std::move(gradients), stream);
    Tensor words =
        Tensor::empty({static_cast<int64_t>(std::tuple_size_v<Words>)}, DType::i64, allocator);
    kernels::exact_sum_of_blocks(words.out(), block_sums.in(), stream);
    return words;
}

double gradient_norm(std::span<const ParameterGradient> mine, Ranks& ranks,
                     CachingAllocator& allocator, Stream& stream) {
    Words words = read_words(sum_of_squares(mine, allocator, stream), stream);
    ranks.sum(words);  // one reduction
    if (words.back() > 0) return std::numeric_limits<double>::quiet_NaN();
    kernels::ExactSum sum;
    std::copy(words.begin(), words.end() - 1, sum.limbs().begin());
    return std::sqrt(sum.value());
}

}  // namespace plinth::core::optim
