// SPDX-License-Identifier: Apache-2.0
// What kernels without sums share: checks, and the launch of one function over every element.
#pragma once

#include <initializer_list>

#include "kernels/cuda/rows.cuh"
#include "kernels/view.h"

namespace plinth::kernels::cuda {

inline void check_same_elements(const char* kernel, const ConstView& a, const ConstView& b) {
    CHECK(a.elements() == b.elements() && a.is_contiguous() && b.is_contiguous(),
          "{}: shapes {} and {}", kernel, a.shape.text(), b.shape.text());
}

/// Whether every one of the addresses, null for what is left out, takes 16-byte accesses.
inline bool are_aligned(std::initializer_list<const void*> addresses) {
    return std::all_of(addresses.begin(), addresses.end(),
                       [](const void* data) { return is_aligned(data, 16); });
}

inline constexpr int elementwise_threads = 256;
/// Vectors per thread, all loaded before the first is stored: loads in flight hide the memory's
/// latency.
inline constexpr int elementwise_vectors = 2;

/// The inputs of an elementwise kernel, all of the output's dtype.
template <typename T, int count>
struct Sources {
    const T* data[count > 0 ? count : 1];
};

template <int count, typename Function>
__device__ inline float apply(const Function& function, const float* x) {
    if constexpr (count == 0)
        return function();
    else if constexpr (count == 1)
        return function(x[0]);
    else
        return function(x[0], x[1]);
}

/// y[i] = function(sources[i]...), `width` elements an access. y may be one of the sources.
template <int width, int count, typename T, typename Function>
__global__ void __launch_bounds__(elementwise_threads)
    map_elements(T* y, Sources<T, count> sources, Function function, int64_t n) {
    const int64_t vectors = n / width;
    const int64_t first =
        int64_t{blockIdx.x} * (elementwise_vectors * elementwise_threads) + threadIdx.x;
    Vector<T, width> in[elementwise_vectors][count > 0 ? count : 1];
#pragma unroll
    for (int k = 0; k < elementwise_vectors; ++k)
        if (first + k * elementwise_threads < vectors)
#pragma unroll
            for (int s = 0; s < count; ++s)
                in[k][s] = reinterpret_cast<const Vector<T, width>*>(
                    sources.data[s])[first + k * elementwise_threads];
#pragma unroll
    for (int k = 0; k < elementwise_vectors; ++k) {
        if (first + k * elementwise_threads >= vectors) continue;
        Vector<T, width> out;
#pragma unroll
        for (int i = 0; i < width; ++i) {
            float x[count > 0 ? count : 1];
#pragma unroll
            for (int s = 0; s < count; ++s)
                x[s] = to_float(in[k][s].values[i]);
            out.values[i] = from_float<T>(apply<count>(function, x));
        }
        reinterpret_cast<Vector<T, width>*>(y)[first + k * elementwise_threads] = out;
    }
    // The elements after the last whole vector, by the first threads.
    const int64_t rest = vectors * width + first;
    if (first < width && rest < n) {
        float x[count > 0 ? count : 1];
#pragma unroll
        for (int s = 0; s < count; ++s)
            x[s] = to_float(sources.data[s][rest]);
        y[rest] = from_float<T>(apply<count>(function, x));
    }
}

/// Launches y[i] = function(sources[i]...) in fp32; 16 bytes an access where all addresses allow.
template <typename T, int count, typename Function>
void map(const char* kernel, Queue& queue, T* y, const Sources<T, count>& sources, int64_t n,
         const Function& function) {
    if (n == 0) return;
    bool wide = is_aligned(y, 16);
    for (int s = 0; s < count; ++s)
        wide = wide && is_aligned(sources.data[s], 16);
    const auto launch = [&]<int width>(std::integral_constant<int, width>) {
        const unsigned blocks = blocks_for(n, elementwise_threads, elementwise_vectors * width);
        map_elements<width, count>
            <<<blocks, elementwise_threads, 0, queue.stream()>>>(y, sources, function, n);
    };
    if (wide)
        launch(std::integral_constant<int, widest<T>>{});
    else
        launch(std::integral_constant<int, 1>{});
    CUDA_CHECK_LAUNCH(kernel);
}

}  // namespace plinth::kernels::cuda
