// SPDX-License-Identifier: Apache-2.0
#include "kernels/gelu.h"

#include "kernels/cuda/elementwise.cuh"

namespace plinth::kernels::cuda {

namespace {

template <Gelu form>
__device__ GeluParts parts_of(float x) {
    if constexpr (form == Gelu::tanh)
        return gelu_tanh_parts(x);
    else
        return gelu_erf_parts(x);
}

template <Gelu form>
struct Forward {
    __device__ float operator()(float x) const { return x * parts_of<form>(x).factor; }
};

template <Gelu form>
struct Backward {
    __device__ float operator()(float dy, float x) const { return dy * parts_of<form>(x).slope; }
};

template <Gelu form, typename T>
void forward(View y, ConstView x, Queue& queue) {
    map("gelu_forward", queue, y.as<T>(), Sources<T, 1>{x.as<T>()}, y.elements(), Forward<form>{});
}

template <Gelu form, typename T>
void backward(View dx, ConstView dy, ConstView x, Queue& queue) {
    map("gelu_backward", queue, dx.as<T>(), Sources<T, 2>{dy.as<T>(), x.as<T>()}, dx.elements(),
        Backward<form>{});
}

}  // namespace

void gelu_forward(View y, ConstView x, Gelu form, Stream& stream) {
    check_same_elements("gelu_forward", y, x);
    with_device_float(y.dtype, "gelu_forward", [&]<typename T>(T) {
        const auto launch = form == Gelu::tanh ? &forward<Gelu::tanh, T> : &forward<Gelu::erf, T>;
        launch(y, x, queue_of(stream));
    });
}

void gelu_backward(View dx, ConstView dy, ConstView x, Gelu form, Stream& stream) {
    check_same_elements("gelu_backward", dx, dy);
    check_same_elements("gelu_backward", dx, x);
    with_device_float(dx.dtype, "gelu_backward", [&]<typename T>(T) {
        const auto launch = form == Gelu::tanh ? &backward<Gelu::tanh, T> : &backward<Gelu::erf, T>;
        launch(dx, dy, x, queue_of(stream));
    });
}

PLINTH_CUDA_KERNEL(gelu_forward);
PLINTH_CUDA_KERNEL(gelu_backward);

}  // namespace plinth::kernels::cuda
