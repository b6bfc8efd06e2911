// SPDX-License-Identifier: Apache-2.0
// Rows of bytes that go from one place to another as they are.
#pragma once

#include <initializer_list>

#include "kernels/cuda/rows.cuh"

namespace plinth::kernels::cuda {

/// Calls body with a value of the widest type in which rows of `bytes` at all the addresses can be
/// copied whole.
template <typename Body>
void with_copy_unit(size_t bytes, std::initializer_list<const void*> addresses, Body&& body) {
    const auto fits = [&](size_t unit) {
        return bytes % unit == 0 &&
               std::all_of(addresses.begin(), addresses.end(),
                           [=](const void* data) { return is_aligned(data, unit); });
    };
    if (fits(sizeof(uint4))) return body(uint4{});
    if (fits(sizeof(uint32_t))) return body(uint32_t{});
    if (fits(sizeof(uint16_t))) return body(uint16_t{});
    body(uint8_t{});
}

/// A row's units, shared by the threads of a block's x dim.
template <typename Unit>
__device__ void copy_row(Unit* to, const Unit* from, int64_t units) {
    for (int64_t i = threadIdx.x; i < units; i += blockDim.x)
        to[i] = from[i];
}

}  // namespace plinth::kernels::cuda
