// SPDX-License-Identifier: Apache-2.0
#include "parallel/collective_ops/sum_gradients.h"

#include <algorithm>
#include <vector>

#include "core/tensor/tensor.h"
#include "kernels/cast.h"
#include "parallel/comm/view_bytes.h"

namespace plinth::parallel {

using core::Tensor;
using core::optim::ParameterGradient;

namespace {

/// The pieces in one collective, by way of `flat`.
void sum_together(std::span<const View> pieces, View flat, Communicator& group,
                  const std::string& label, Stream& stream) {
    int64_t elements = 0;
    for (const View& piece : pieces) {
        kernels::cast(part_of(flat, elements, piece.elements()), piece, stream);
        elements += piece.elements();
    }
    group.all_reduce(label, std::span(flat.as<float>(), static_cast<size_t>(elements)),
                     Reduce::sum);
    int64_t at = 0;
    for (const View& piece : pieces) {
        kernels::cast(piece, part_of(flat, at, piece.elements()), stream);
        at += piece.elements();
    }
}

}  // namespace

void sum_gradients(std::span<const ParameterGradient> gradients, Communicator& group,
                   const std::string& label, CachingAllocator& allocator, Stream& stream,
                   int64_t bytes_at_once) {
    if (group.size() == 1) return;
    int64_t all = 0;
    for (const ParameterGradient& entry : gradients) {
        CHECK(entry.gradient.is_contiguous() && entry.gradient.dtype == DType::f32,
              "{}: the gradient of {} is strided or not fp32", label, entry.parameter->name());
        all += entry.gradient.elements();
    }
    if (all == 0) return;
    const int64_t limit = std::clamp<int64_t>(bytes_at_once / 4, 1, all);
    Tensor flat = Tensor::empty({limit}, DType::f32, allocator);
    std::vector<View> pieces;
    int64_t filled = 0;
    const auto sum = [&] {
        sum_together(pieces, flat.out(), group, label, stream);
        pieces.clear();
        filled = 0;
    };
    for (const ParameterGradient& entry : gradients)
        for (int64_t at = 0; at < entry.gradient.elements();) {
            const int64_t count = std::min(entry.gradient.elements() - at, limit - filled);
            pieces.push_back(part_of(entry.gradient, at, count));
            at += count;
            filled += count;
            if (filled == limit) sum();
        }
    if (filled > 0) sum();
}

}  // namespace plinth::parallel
