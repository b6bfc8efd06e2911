// SPDX-License-Identifier: Apache-2.0
#include "kernels/add.h"

#include "kernels/cpu/elementwise.h"
#include "kernels/simd.h"

namespace plinth::kernels::cpu {

PLINTH_SIMD void add_range(float* y, const float* a, const float* b, int64_t n) {
    for (int64_t i = 0; i < n; ++i)
        y[i] = a[i] + b[i];
}

PLINTH_SIMD void add_range(BFloat16* y, const BFloat16* a, const BFloat16* b, int64_t n) {
    for (int64_t i = 0; i < n; ++i)
        y[i] = BFloat16(static_cast<float>(a[i]) + static_cast<float>(b[i]));
}

namespace {

PLINTH_SIMD void add_to_row(float* y, const float* x, const float* row, int64_t n) {
    for (int64_t i = 0; i < n; ++i)
        y[i] = x[i] + row[i];
}

PLINTH_SIMD void add_to_row(BFloat16* y, const BFloat16* x, const float* row, int64_t n) {
    for (int64_t i = 0; i < n; ++i)
        y[i] = BFloat16(static_cast<float>(x[i]) + row[i]);
}

PLINTH_SIMD void scale_range(float* y, const float* x, float factor, int64_t n) {
    for (int64_t i = 0; i < n; ++i)
        y[i] = factor * x[i];
}

PLINTH_SIMD void scale_range(BFloat16* y, const BFloat16* x, float factor, int64_t n) {
    for (int64_t i = 0; i < n; ++i)
        y[i] = BFloat16(factor * static_cast<float>(x[i]));
}

}  // namespace

void add(View y, ConstView a, ConstView b, Stream& stream) {
    check_same_elements("add", y, a);
    check_same_elements("add", y, b);
    with_float_type(y.dtype, "add", [&]<typename T>(T) {
        T* out = y.as<T>();
        const T *left = a.as<T>(), *right = b.as<T>();
        parallel_for(stream, y.elements(), elementwise_grain, [&](int64_t begin, int64_t end) {
            add_range(out + begin, left + begin, right + begin, end - begin);
        });
    });
}

void add_row(View y, ConstView x, ConstView row, Stream& stream) {
    check_same_elements("add_row", y, x);
    const int64_t n = row.elements();
    CHECK(n > 0 && x.dim(-1) == n && row.is_contiguous(), "add_row: {} and a row of {}",
          x.shape.text(), n);
    with_float_type(y.dtype, "add_row", [&]<typename T>(T) {
        T* out = y.as<T>();
        const T* in = x.as<T>();
        const float* each = row.as<float>();
        parallel_for(stream, x.shape.rows(), row_grain(n), [&](int64_t begin, int64_t end) {
            for (int64_t r = begin; r < end; ++r)
                add_to_row(out + r * n, in + r * n, each, n);
        });
    });
}

void scale(View y, ConstView x, float factor, Stream& stream) {
    check_same_elements("scale", y, x);
    with_float_type(y.dtype, "scale", [&]<typename T>(T) {
        T* out = y.as<T>();
        const T* in = x.as<T>();
        parallel_for(stream, y.elements(), elementwise_grain, [&](int64_t begin, int64_t end) {
            scale_range(out + begin, in + begin, factor, end - begin);
        });
    });
}

void fill(View y, float value, Stream& stream) {
    CHECK(y.is_contiguous(), "fill of a strided view");
    with_float_type(y.dtype, "fill", [&]<typename T>(T) {
        T* out = y.as<T>();
        parallel_for(stream, y.elements(), elementwise_grain, [&](int64_t begin, int64_t end) {
            std::fill(out + begin, out + end, T(value));
        });
    });
}

}  // namespace plinth::kernels::cpu
