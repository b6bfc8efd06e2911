// SPDX-License-Identifier: Apache-2.0
#include "core/optim/grad_norm.h"

#include <cmath>
#include <limits>

#include "kernels/exact_sum.h"
#include "kernels/grad_norm.h"

namespace plinth::core::optim {

double gradient_norm(std::span<const ParameterGradient> gradients, CachingAllocator& allocator,
                     Stream& stream) {
    kernels::ExactSum sum;
    for (const ParameterGradient& entry : gradients) {
        const int64_t blocks =
            (entry.gradient.elements() + kernels::norm_block - 1) / kernels::norm_block;
        Tensor block_sums = Tensor::empty({blocks}, DType::f64, allocator);
        kernels::squared_block_sums(block_sums.out(), entry.gradient, stream);
        for (int64_t i = 0; i < blocks; ++i) {
            const double square = block_sums.in().as<double>()[i];
            if (!std::isfinite(square)) return std::numeric_limits<double>::quiet_NaN();
            sum.add(square);
        }
    }
    return std::sqrt(sum.value());
}

}  // namespace plinth::core::optim
