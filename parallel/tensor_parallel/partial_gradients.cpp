// SPDX-License-Identifier: Apache-2.0
#include "parallel/tensor_parallel/partial_gradients.h"

#include "core/tensor/tensor.h"
#include "kernels/cast.h"

namespace plinth::parallel {

using core::Tensor;
using core::optim::ParameterGradient;

void sum_partial_gradients(std::span<const ParameterGradient> gradients, Communicator& group,
                           CachingAllocator& allocator, Stream& stream) {
    if (group.size() == 1) return;
    int64_t elements = 0;
    for (const ParameterGradient& entry : gradients)
        if (entry.parameter->gradient_is_partial()) elements += entry.gradient.elements();
    Tensor flat = Tensor::empty({elements}, DType::f32, allocator);
    /// Calls move(part of flat, gradient) for each.
    const auto for_partial = [&](auto&& move) {
        int64_t at = 0;
        for (const ParameterGradient& entry : gradients) {
            if (!entry.parameter->gradient_is_partial()) continue;
            const int64_t count = entry.gradient.elements();
            Tensor part = flat.rows(at, at + count);
            move(part, entry.gradient);
            at += count;
        }
    };
    for_partial([&](Tensor& part, View gradient) { kernels::cast(part.out(), gradient, stream); });
    group.all_reduce("partial gradients",
                     std::span(flat.out().as<float>(), static_cast<size_t>(elements)), Reduce::sum);
    for_partial([&](Tensor& part, View gradient) { kernels::cast(gradient, part.in(), stream); });
}

}  // namespace plinth::parallel
