// SPDX-License-Identifier: Apache-2.0
#include "core/optim/grad_norm.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "kernels/exact_sum.h"
#include "kernels/grad_norm.h"

namespace plinth::core::optim {

double gradient_norm(std::span<const ParameterGradient> mine, Ranks& ranks,
                     CachingAllocator& allocator, Stream& stream) {
    kernels::ExactSum sum;
    int64_t not_finite = 0;
    for (const ParameterGradient& entry : mine) {
        const int64_t blocks =
            (entry.gradient.elements() + kernels::norm_block - 1) / kernels::norm_block;
        Tensor block_sums = Tensor::empty({blocks}, DType::f64, allocator);
        kernels::squared_block_sums(block_sums.out(), entry.gradient, stream);
        for (int64_t i = 0; i < blocks; ++i) {
            const double square = block_sums.in().as<double>()[i];
            if (std::isfinite(square))
                sum.add(square);
            else
                ++not_finite;
        }
    }
    // One reduction: the limbs, then how many blocks are not finite.
    std::array<int64_t, kernels::ExactSum::limb_count + 1> words{};
    const std::span<int64_t> limbs = sum.limbs();
    std::copy(limbs.begin(), limbs.end(), words.begin());
    words.back() = not_finite;
    ranks.sum(words);
    if (words.back() > 0) return std::numeric_limits<double>::quiet_NaN();
    std::copy(words.begin(), words.end() - 1, limbs.begin());
    return std::sqrt(sum.value());
}

}  // namespace plinth::core::optim
