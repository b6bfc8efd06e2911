// SPDX-License-Identifier: Apache-2.0
#include "kernels/cast.h"

#include <cstring>

#include "kernels/cpu/elementwise.h"
#include "kernels/simd.h"

namespace plinth::kernels::cpu {

namespace {

PLINTH_SIMD void cast_range(BFloat16* y, const float* x, int64_t n) {
    for (int64_t i = 0; i < n; ++i)
        y[i] = BFloat16(x[i]);
}

PLINTH_SIMD void cast_range(float* y, const BFloat16* x, int64_t n) {
    for (int64_t i = 0; i < n; ++i)
        y[i] = static_cast<float>(x[i]);
}

template <typename T>
void cast_range(T* y, const T* x, int64_t n) {
    std::memcpy(y, x, static_cast<size_t>(n) * sizeof(T));
}

}  // namespace

void cast(View y, ConstView x, Stream& stream) {
    check_same_elements("cast", y, x);
    with_float_type(y.dtype, "cast", [&]<typename To>(To) {
        with_float_type(x.dtype, "cast", [&]<typename From>(From) {
            To* out = y.as<To>();
            const From* in = x.as<From>();
            parallel_for(stream, y.elements(), elementwise_grain, [&](int64_t begin, int64_t end) {
                cast_range(out + begin, in + begin, end - begin);
            });
        });
    });
}

}  // namespace plinth::kernels::cpu
