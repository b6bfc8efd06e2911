// SPDX-License-Identifier: Apache-2.0
// What kernels over rows and elements share.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <type_traits>

#include "kernels/cuda/check.h"
#include "kernels/cuda/queue.h"
#include "kernels/runtime/dtype.h"

namespace plinth::kernels::cuda {

/// N values that one thread loads or stores at once; 16 bytes are the widest access.
template <typename T, int N>
struct alignas(sizeof(T) * N) Vector {
    T values[N];
};

template <typename T>
inline constexpr int widest = static_cast<int>(16 / sizeof(T));

__device__ inline float to_float(float x) {
    return x;
}
__device__ inline float to_float(BFloat16 x) {
    return static_cast<float>(x);
}
template <typename T>
__device__ inline T from_float(float x) {
    if constexpr (std::is_same_v<T, float>)
        return x;
    else  // one instruction; the same rounding
        return std::bit_cast<BFloat16>(__float2bfloat16_rn(x));
}

/// Sum over the 32 lanes of a warp in a fixed order; every lane gets it.
template <typename T>
__device__ inline T warp_sum(T value) {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2)
        value += __shfl_xor_sync(0xffffffffu, value, distance);
    return value;
}
__device__ inline float warp_max(float value) {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2)
        value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, distance));
    return value;
}

/// Sum over a block of up to 1,024 threads (a multiple of 32) in a fixed order; every thread gets
/// it. May be called again: it begins with a barrier.
template <typename T>
__device__ inline T block_sum(T value) {
    __shared__ T parts[32];
    __syncthreads();
    value = warp_sum(value);
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = value;
    __syncthreads();
    const int warps = static_cast<int>(blockDim.x) / 32;
    T total = static_cast<int>(threadIdx.x % 32) < warps ? parts[threadIdx.x % 32] : T(0);
    return warp_sum(total);
}

/// Blocks of `threads` for n items, `per_thread` each.
inline unsigned blocks_for(int64_t n, int64_t threads, int64_t per_thread = 1) {
    return static_cast<unsigned>(
        std::max<int64_t>(1, (n + threads * per_thread - 1) / (threads * per_thread)));
}

inline bool is_aligned(const void* data, size_t bytes) {
    return reinterpret_cast<uintptr_t>(data) % bytes == 0;
}

/// Calls body with a float or a BFloat16, by the dtype.
template <typename Body>
void with_device_float(DType dtype, const char* kernel, Body&& body) {
    if (dtype == DType::f32) return body(float{});
    CHECK(dtype == DType::bf16, "{}: f32 or bf16, got {}", kernel, name_of(dtype));
    body(BFloat16{});
}

}  // namespace plinth::kernels::cuda
