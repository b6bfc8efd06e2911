// SPDX-License-Identifier: Apache-2.0
#include "kernels/cast.h"

#include "kernels/cuda/rows.cuh"

namespace plinth::kernels::cuda {

namespace {

constexpr int threads = 256;

/// y = x, `per_thread` elements at once: one where an address takes no vector.
template <int per_thread, typename To, typename From>
__global__ void cast_elements(To* y, const From* x, int64_t n) {
    const int64_t first = (int64_t{blockIdx.x} * threads + threadIdx.x) * per_thread;
    if (first + per_thread <= n) {
        const auto in = *reinterpret_cast<const Vector<From, per_thread>*>(x + first);
        Vector<To, per_thread> out;
#pragma unroll
        for (int i = 0; i < per_thread; ++i)
            out.values[i] = from_float<To>(to_float(in.values[i]));
        *reinterpret_cast<Vector<To, per_thread>*>(y + first) = out;
    } else {
        for (int64_t i = first; i < n; ++i)
            y[i] = from_float<To>(to_float(x[i]));
    }
}

}  // namespace

void cast(View y, ConstView x, Stream& stream) {
    const int64_t n = x.elements();
    CHECK(y.elements() == n && y.is_contiguous() && x.is_contiguous(), "cast: {} from {}",
          y.shape.text(), x.shape.text());
    Queue& queue = queue_of(stream);
    if (y.dtype == x.dtype) return queue.copy(y.data, x.data, y.bytes());
    with_device_float(y.dtype, "cast", [&]<typename To>(To) {
        with_device_float(x.dtype, "cast", [&]<typename From>(From) {
            const auto launch = [&]<int per_thread>(std::integral_constant<int, per_thread>) {
                cast_elements<per_thread, To, From>
                    <<<blocks_for(n, threads, per_thread), threads, 0, queue.stream()>>>(
                        y.as<To>(), x.as<From>(), n);
            };
            if (is_aligned(y.data, alignof(Vector<To, 8>)) &&
                is_aligned(x.data, alignof(Vector<From, 8>)))
                launch(std::integral_constant<int, 8>{});
            else
                launch(std::integral_constant<int, 1>{});
        });
    });
    CUDA_CHECK_LAUNCH("cast");
}

PLINTH_CUDA_KERNEL(cast);

}  // namespace plinth::kernels::cuda
