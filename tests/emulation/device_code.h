// SPDX-License-Identifier: Apache-2.0
// What a .cu file needs to be compiled for the CPU, included before its first line: CUDA's own
// types and conversions from the toolkit's headers, and its built-in variables and functions by
// tests/emulation/block.h. translate.py has turned launches, shared variables and assembly into
// calls of what is declared here.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp8.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <tuple>
#include <type_traits>
#include <utility>

#include "tests/emulation/block.h"
#include "tests/emulation/runtime.h"

#undef __global__
#undef __device__
#undef __host__
#undef __shared__
#undef __forceinline__
#undef __launch_bounds__
#undef __grid_constant__
#undef __align__
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) alignas(n)
#define __CUDACC__ 1  // after the toolkit's headers, which would take it for nvcc

#define threadIdx (::emulation::place().thread)
#define blockIdx (::emulation::place().block)
#define blockDim (::emulation::place().threads)
#define gridDim (::emulation::place().blocks)

using std::isfinite;
using std::isinf;
using std::isnan;
using std::max;
using std::min;
using std::signbit;

/// Functions are no objects in C++, but a CUDA compiler takes them for such here.
template <typename Result, typename... Parameters>
cudaError_t cudaFuncSetAttribute(Result (*kernel)(Parameters...), cudaFuncAttribute attribute,
                                 int value) {
    return cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), attribute, value);
}

inline void __syncthreads() {
    emulation::wait_for_block();
}
inline int __syncthreads_or(int is_true) {
    return emulation::any_of_block(is_true != 0);
}

inline void __threadfence_system() {}

inline void __syncwarp(unsigned mask = 0xffffffffu) {
    emulation::exchange(mask, "__syncwarp", nullptr, 0);
}

namespace emulation {

/// The value that lane `source` gave; every lane of the mask that lives must have come.
template <typename T>
T value_of_lane(unsigned mask, const char* what, const T& value, unsigned source) {
    static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= Lanes::most_bytes);
    const Lanes& lanes = exchange(mask, what, &value, sizeof(T));
    T result = value;  // of a lane that is not there: undefined on a device
    if (lanes.present >> source & 1) std::memcpy(&result, lanes.values[source].data(), sizeof(T));
    return result;
}

template <typename T, typename Join>
T joined_lanes(unsigned mask, const char* what, T value, Join&& join) {
    const Lanes& lanes = exchange(mask, what, &value, sizeof(T));
    for (unsigned source = 0; source < 32; ++source)
        if (source != lane() && (lanes.present >> source & 1)) {
            T other;
            std::memcpy(&other, lanes.values[source].data(), sizeof(T));
            value = join(value, other);
        }
    return value;
}

}  // namespace emulation

template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
    const unsigned first = emulation::lane() / width * width;
    return emulation::value_of_lane(mask, "__shfl_sync", value,
                                    first + static_cast<unsigned>(source) % width);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lanes) {
    return emulation::value_of_lane(mask, "__shfl_xor_sync", value, emulation::lane() ^ lanes);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned lanes) {
    const unsigned source = emulation::lane() + lanes;
    return emulation::value_of_lane(mask, "__shfl_down_sync", value,
                                    source < 32 ? source : emulation::lane());
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned lanes) {
    const unsigned here = emulation::lane();
    return emulation::value_of_lane(mask, "__shfl_up_sync", value,
                                    here >= lanes ? here - lanes : here);
}
inline unsigned __ballot_sync(unsigned mask, int is_true) {
    const unsigned bit = is_true ? 1u << emulation::lane() : 0u;
    return emulation::joined_lanes(mask, "__ballot_sync", bit,
                                   [](unsigned a, unsigned b) { return a | b; });
}
inline int __any_sync(unsigned mask, int is_true) {
    return __ballot_sync(mask, is_true) != 0;
}
inline int __all_sync(unsigned mask, int is_true) {
    return !__any_sync(mask, !is_true);
}
template <typename T>
T __reduce_max_sync(unsigned mask, T value) {
    return emulation::joined_lanes(mask, "__reduce_max_sync", value,
                                   [](T a, T b) { return std::max(a, b); });
}

// Blocks run one after another and threads change at barriers only.
template <typename T, typename U>
T atomicAdd(T* at, U value) {
    const T before = *at;
    *at = static_cast<T>(before + static_cast<T>(value));
    return before;
}
template <typename T, typename U>
T atomicMax(T* at, U value) {
    const T before = *at;
    *at = std::max(before, static_cast<T>(value));
    return before;
}
template <typename T, typename U, typename V>
T atomicCAS(T* at, U expected, V value) {
    const T before = *at;
    if (before == static_cast<T>(expected)) *at = static_cast<T>(value);
    return before;
}

inline unsigned __float_as_uint(float x) {
    return std::bit_cast<unsigned>(x);
}
inline float __uint_as_float(unsigned x) {
    return std::bit_cast<float>(x);
}
inline int __ffs(int x) {
    return __builtin_ffs(x);
}
inline int __popc(unsigned x) {
    return std::popcount(x);
}
/// Byte i of the result is the byte of y:x that nibble i of the selector names.
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
    const uint64_t both = uint64_t{y} << 32 | x;
    unsigned result = 0;
    for (int i = 0; i < 4; ++i)
        result |= static_cast<unsigned>(both >> 8 * (selector >> 4 * i & 7) & 0xff) << 8 * i;
    return result;
}

namespace emulation {

/// PTX ex2.approx.ftz.f32.
inline float power_of_two(float x) {
    return std::exp2(x);
}

/// What stands between <<< and >>>.
struct Launch {
    dim3 blocks, threads;
    size_t shared_bytes = 0;
    cudaStream_t stream = nullptr;

    Launch(dim3 grid, dim3 block, size_t shared = 0, cudaStream_t queue = nullptr)
        : blocks(grid), threads(block), shared_bytes(shared), stream(queue) {}
};

/// Arguments are copied now, as a launch copies them; the kernel runs when its stream comes to it.
template <typename Kernel, typename... Arguments>
void launch(const Launch& shape, Kernel kernel, Arguments... arguments) {
    enqueue_kernel(
        shape.blocks, shape.threads, shape.shared_bytes, shape.stream,
        [kernel, copies = std::tuple<Arguments...>(arguments...)] { std::apply(kernel, copies); });
}

}  // namespace emulation
