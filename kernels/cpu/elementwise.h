// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/kernel.h"

namespace plinth::kernels::cpu {

/// Elements per chunk of an elementwise loop: 128 KiB of fp32, large enough to hide the hand-over
/// to a thread.
inline constexpr int64_t elementwise_grain = 32768;

/// Rows per chunk of a row-wise loop: about `elementwise_grain` elements.
inline int64_t row_grain(int64_t width) {
    return std::max<int64_t>(1, elementwise_grain / std::max<int64_t>(1, width));
}

/// Calls body(T{}) with the C++ type of `dtype`, fp32 or bf16.
template <typename Body>
void with_float_type(DType dtype, const char* kernel, Body&& body) {
    switch (dtype) {
        case DType::f32:
            return body(float{});
        case DType::bf16:
            return body(BFloat16{});
        default:
            FAIL(internal, "{}: no kernel for {}", kernel, name_of(dtype));
    }
}

inline void check_same_elements(const char* kernel, ConstView a, ConstView b) {
    CHECK(a.elements() == b.elements() && a.is_contiguous() && b.is_contiguous(),
          "{}: shapes {} and {}", kernel, a.shape.text(), b.shape.text());
}

/// y = a + b over n elements, on this thread; y may be one of them.
void add_range(float* y, const float* a, const float* b, int64_t n);
void add_range(BFloat16* y, const BFloat16* a, const BFloat16* b, int64_t n);

}  // namespace plinth::kernels::cpu
