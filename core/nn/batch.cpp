// SPDX-License-Identifier: Apache-2.0
#include "core/nn/batch.h"

#include "core/autograd/scope.h"

namespace plinth::core {

namespace {

/// The tokens of every sequence that the slices name, one after the other.
Tensor gathered(const Tensor& values, std::span<const TokenSlice> slices) {
    const int64_t B = values.dim(0), T = values.dim(1);
    int64_t count = 0;
    for (const TokenSlice& slice : slices) {
        CHECK(slice.first >= 0 && slice.first + slice.count <= T, "tokens [{}, {}) of {}",
              slice.first, slice.first + slice.count, values.shape().text());
        count += slice.count;
    }
    Scope& scope = Scope::current();
    Tensor part = scope.empty({B, count}, DType::i32);
    const int32_t* from = values.in().as<int32_t>();
    int32_t* to = part.out().as<int32_t>();
    for (int64_t b = 0; b < B; ++b)
        for (const TokenSlice& slice : slices) {
            scope.stream().copy(to, from + b * T + slice.first,
                                static_cast<size_t>(slice.count) * sizeof(int32_t));
            to += slice.count;
        }
    return part;
}

}  // namespace

kernels::ElementNumbers Batch::element_numbers(int64_t width) const {
    kernels::ElementNumbers numbers{.first = part.position(slice.first) * width};
    if (part.is_whole() || slice.first >= part.run) return numbers;
    numbers.turn = (part.run - slice.first) * width;
    numbers.skipped = (part.first[1] - part.first[0] - part.run) * width;
    return numbers;
}

Tensor tokens_in(const Tensor& values, const TokenSlice& slice) {
    return slice.is_whole() ? values : gathered(values, std::array{slice});
}

Tensor tokens_of(const Tensor& values, const SequencePart& part) {
    if (part.is_whole()) return values;
    return gathered(values, std::array{TokenSlice{part.first[0], part.run},
                                       TokenSlice{part.first[1], part.run}});
}

}  // namespace plinth::core
