// SPDX-License-Identifier: Apache-2.0
#include "kernels/gelu.h"

#include "kernels/cpu/elementwise.h"
#include "kernels/simd.h"

namespace plinth::kernels::cpu {

namespace {

template <Gelu form>
PLINTH_INLINE GeluParts parts_of(float x) {
    return form == Gelu::tanh ? gelu_tanh_parts(x) : gelu_erf_parts(x);
}

template <Gelu form, typename T>
PLINTH_SIMD void forward_range(T* y, const T* x, int64_t n) {
    for (int64_t i = 0; i < n; ++i) {
        const auto value = static_cast<float>(x[i]);
        y[i] = T(value * parts_of<form>(value).factor);
    }
}

template <Gelu form, typename T>
PLINTH_SIMD void backward_range(T* dx, const T* dy, const T* x, int64_t n) {
    for (int64_t i = 0; i < n; ++i)
        dx[i] = T(static_cast<float>(dy[i]) * parts_of<form>(static_cast<float>(x[i])).slope);
}

}  // namespace

void gelu_forward(View y, ConstView x, Gelu form, Stream& stream) {
    check_same_elements("gelu_forward", y, x);
    with_float_type(y.dtype, "gelu_forward", [&]<typename T>(T) {
        T* out = y.as<T>();
        const T* in = x.as<T>();
        const auto range =
            form == Gelu::tanh ? &forward_range<Gelu::tanh, T> : &forward_range<Gelu::erf, T>;
        parallel_for(stream, y.elements(), elementwise_grain, [&](int64_t begin, int64_t end) {
            range(out + begin, in + begin, end - begin);
        });
    });
}

void gelu_backward(View dx, ConstView dy, ConstView x, Gelu form, Stream& stream) {
    check_same_elements("gelu_backward", dx, dy);
    check_same_elements("gelu_backward", dx, x);
    with_float_type(dx.dtype, "gelu_backward", [&]<typename T>(T) {
        T* out = dx.as<T>();
        const T *gradient = dy.as<T>(), *in = x.as<T>();
        const auto range =
            form == Gelu::tanh ? &backward_range<Gelu::tanh, T> : &backward_range<Gelu::erf, T>;
        parallel_for(stream, dx.elements(), elementwise_grain, [&](int64_t begin, int64_t end) {
            range(out + begin, gradient + begin, in + begin, end - begin);
        });
    });
}

}  // namespace plinth::kernels::cpu
