// SPDX-License-Identifier: Apache-2.0
#include "parallel/collective_ops/sum_gradients.h"

#include "core/tensor/tensor.h"
#include "kernels/cast.h"

namespace plinth::parallel {

using core::Tensor;
using core::optim::ParameterGradient;

namespace {

void sum_together(std::span<const ParameterGradient> gradients, int64_t elements,
                  Communicator& group, const std::string& label, CachingAllocator& allocator,
                  Stream& stream) {
    Tensor flat = Tensor::empty({elements}, DType::f32, allocator);
    /// Calls move(part of flat, gradient) for each.
    const auto for_each = [&](auto&& move) {
        int64_t at = 0;
        for (const ParameterGradient& entry : gradients) {
            const int64_t count = entry.gradient.elements();
            Tensor part = flat.rows(at, at + count);
            move(part, entry.gradient);
            at += count;
        }
    };
    for_each([&](Tensor& part, View gradient) { kernels::cast(part.out(), gradient, stream); });
    group.all_reduce(label, std::span(flat.out().as<float>(), static_cast<size_t>(elements)),
                     Reduce::sum);
    for_each([&](Tensor& part, View gradient) { kernels::cast(gradient, part.in(), stream); });
}

}  // namespace

void sum_gradients(std::span<const ParameterGradient> gradients, Communicator& group,
                   const std::string& label, CachingAllocator& allocator, Stream& stream,
                   int64_t bytes_at_once) {
    if (group.size() == 1) return;
    const int64_t limit = bytes_at_once / static_cast<int64_t>(sizeof(float));
    size_t begin = 0;
    int64_t elements = 0;
    for (size_t i = 0; i < gradients.size(); ++i) {
        const int64_t count = gradients[i].gradient.elements();
        if (i > begin && elements + count > limit) {
            sum_together(gradients.subspan(begin, i - begin), elements, group, label, allocator,
                         stream);
            begin = i;
            elements = 0;
        }
        elements += count;
    }
    if (elements > 0)
        sum_together(gradients.subspan(begin), elements, group, label, allocator, stream);
}

}  // namespace plinth::parallel
