// SPDX-License-Identifier: Apache-2.0
#include "kernels/swiglu.h"

#include "kernels/cpu/elementwise.h"
#include "kernels/simd.h"

namespace plinth::kernels::cpu {

namespace {

template <typename T>
PLINTH_INLINE void forward_row(T* y, const T* gate, const T* up, int64_t n) {
    for (int64_t i = 0; i < n; ++i)
        y[i] = T(swiglu_of(static_cast<float>(gate[i]), static_cast<float>(up[i])));
}

template <typename T>
PLINTH_INLINE void backward_row(T* dgate, T* dup, const T* dy, const T* gate, const T* up,
                                int64_t n) {
    for (int64_t i = 0; i < n; ++i) {
        const SwigluGradients d = swiglu_gradients(
            static_cast<float>(dy[i]), static_cast<float>(gate[i]), static_cast<float>(up[i]));
        dgate[i] = T(d.gate);
        dup[i] = T(d.up);
    }
}

PLINTH_SIMD void forward(float* y, const float* gate, const float* up, int64_t n) {
    forward_row(y, gate, up, n);
}
PLINTH_SIMD void forward(BFloat16* y, const BFloat16* gate, const BFloat16* up, int64_t n) {
    forward_row(y, gate, up, n);
}
PLINTH_SIMD void backward(float* dgate, float* dup, const float* dy, const float* gate,
                          const float* up, int64_t n) {
    backward_row(dgate, dup, dy, gate, up, n);
}
PLINTH_SIMD void backward(BFloat16* dgate, BFloat16* dup, const BFloat16* dy, const BFloat16* gate,
                          const BFloat16* up, int64_t n) {
    backward_row(dgate, dup, dy, gate, up, n);
}

/// Checks the shapes; returns F.
int64_t check_halves(const char* kernel, ConstView narrow, ConstView packed) {
    CHECK(packed.dim(-1) == 2 * narrow.dim(-1) && packed.elements() == 2 * narrow.elements() &&
              packed.dtype == narrow.dtype && packed.is_contiguous() && narrow.is_contiguous(),
          "{}: {} and packed {}", kernel, narrow.shape.text(), packed.shape.text());
    return narrow.dim(-1);
}

int64_t rows_per_chunk(int64_t width) {
    return std::max<int64_t>(1, elementwise_grain / std::max<int64_t>(width, 1));
}

}  // namespace

void swiglu_forward(View y, ConstView x, Stream& stream) {
    const int64_t f = check_halves("swiglu_forward", y, x);
    with_float_type(y.dtype, "swiglu_forward", [&]<typename T>(T) {
        parallel_for(stream, y.shape.rows(), rows_per_chunk(f), [&](int64_t begin, int64_t end) {
            for (int64_t r = begin; r < end; ++r) {
                const T* row = x.as<T>() + 2 * f * r;
                forward(y.as<T>() + f * r, row, row + f, f);
            }
        });
    });
}

void swiglu_backward(View dx, ConstView dy, ConstView x, Stream& stream) {
    const int64_t f = check_halves("swiglu_backward", dy, x);
    check_halves("swiglu_backward", dy, dx);
    with_float_type(dy.dtype, "swiglu_backward", [&]<typename T>(T) {
        parallel_for(stream, dy.shape.rows(), rows_per_chunk(f), [&](int64_t begin, int64_t end) {
            for (int64_t r = begin; r < end; ++r) {
                const T* row = x.as<T>() + 2 * f * r;
                T* drow = dx.as<T>() + 2 * f * r;
                backward(drow, drow + f, dy.as<T>() + f * r, row, row + f, f);
            }
        });
    });
}

}  // namespace plinth::kernels::cpu
