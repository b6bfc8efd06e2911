// SPDX-License-Identifier: Apache-2.0
#include "core/nn/batch.h"

#include <algorithm>

#include "core/autograd/scope.h"

namespace plinth::core {

Tensor tokens_in(const Tensor& values, const TokenSlice& slice) {
    if (slice.is_whole()) return values;
    const int64_t B = values.dim(0), T = values.dim(1);
    CHECK(slice.first >= 0 && slice.first + slice.count <= T, "tokens [{}, {}) of {}", slice.first,
          slice.first + slice.count, values.shape().text());
    Tensor part = Scope::current().empty({B, slice.count}, DType::i32);
    const int32_t* from = values.data<int32_t>() + slice.first;
    int32_t* to = part.data<int32_t>();
    for (int64_t b = 0; b < B; ++b)
        std::copy_n(from + b * T, slice.count, to + b * slice.count);
    return part;
}

}  // namespace plinth::core
