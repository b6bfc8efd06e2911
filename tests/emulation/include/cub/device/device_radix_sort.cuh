// SPDX-License-Identifier: Apache-2.0
// The one function of CUB that the kernels call, for the emulated device.
#pragma once

#include <algorithm>
#include <numeric>
#include <vector>

#include "tests/emulation/runtime.h"

namespace cub {

struct DeviceRadixSort {
    /// Stable, by bits [first_bit, end_bit) of the keys. Without `scratch` it only says its size.
    template <typename Key, typename Value>
    static cudaError_t SortPairs(void* scratch, size_t& bytes, const Key* keys, Key* sorted_keys,
                                 const Value* values, Value* sorted_values, int n, int first_bit,
                                 int end_bit, cudaStream_t stream) {
        if (!scratch) {
            bytes = 256;
            return cudaSuccess;
        }
        return emulation::enqueue(stream, [=] {
            const auto part = [=](Key key) {
                const Key shifted = static_cast<Key>(key >> first_bit);
                const int width = end_bit - first_bit;
                return width >= static_cast<int>(8 * sizeof(Key))
                           ? shifted
                           : static_cast<Key>(shifted & ((Key{1} << width) - 1));
            };
            std::vector<int> order(static_cast<size_t>(n));
            std::iota(order.begin(), order.end(), 0);
            std::stable_sort(order.begin(), order.end(),
                             [&](int a, int b) { return part(keys[a]) < part(keys[b]); });
            for (int i = 0; i < n; ++i) {
                sorted_keys[i] = keys[order[static_cast<size_t>(i)]];
                sorted_values[i] = values[order[static_cast<size_t>(i)]];
            }
            return cudaSuccess;
        });
    }
};

}  // namespace cub
