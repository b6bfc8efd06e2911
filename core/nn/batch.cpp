// SPDX-License-Identifier: Apache-2.0
#include "core/nn/batch.h"

#include "core/autograd/scope.h"

namespace plinth::core {

Tensor tokens_in(const Tensor& values, const TokenSlice& slice) {
    if (slice.is_whole()) return values;
    const int64_t B = values.dim(0), T = values.dim(1);
    CHECK(slice.first >= 0 && slice.first + slice.count <= T, "tokens [{}, {}) of {}", slice.first,
          slice.first + slice.count, values.shape().text());
    Tensor part = Scope::current().empty({B, slice.count}, DType::i32);
    const int32_t* from = values.in().as<int32_t>() + slice.first;
    int32_t* to = part.out().as<int32_t>();
    Stream& stream = Scope::current().stream();
    for (int64_t b = 0; b < B; ++b)
        stream.copy(to + b * slice.count, from + b * T,
                    static_cast<size_t>(slice.count) * sizeof(int32_t));
    return part;
}

}  // namespace plinth::core
