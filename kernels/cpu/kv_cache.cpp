// SPDX-License-Identifier: Apache-2.0
#include "kernels/kv_cache.h"

#include <cstring>

namespace plinth::kernels::cpu {

void kv_cache_append(View k, View v, ConstView qkv, ConstView starts, Stream& stream) {
    const int64_t batch = qkv.dim(0), tokens = qkv.dim(1), capacity = k.dim(1), width = k.dim(2);
    CHECK(k.shape == v.shape && k.dim(0) == batch && starts.elements() == batch &&
              qkv.dim(2) > 2 * width && k.dtype == qkv.dtype && v.dtype == qkv.dtype &&
              qkv.is_contiguous() && k.is_contiguous() && v.is_contiguous(),
          "kv_cache_append: {} into caches {}", qkv.shape.text(), k.shape.text());
    const size_t item = size_of(qkv.dtype), bytes = static_cast<size_t>(width) * item;
    const auto* source = static_cast<const std::byte*>(qkv.data);
    auto *keys = static_cast<std::byte*>(k.data), *values = static_cast<std::byte*>(v.data);
    parallel_for(stream, batch, 1, [&](int64_t begin, int64_t end) {
        for (int64_t b = begin; b < end; ++b) {
            const int64_t start = starts.as<int32_t>()[b];
            CHECK(start >= 0 && start + tokens <= capacity,
                  "kv_cache_append: {} tokens after {} in a cache of {}", tokens, start, capacity);
            for (int64_t t = 0; t < tokens; ++t) {
                const std::byte* row =
                    source + static_cast<size_t>((b * tokens + t + 1) * qkv.dim(2)) * item -
                    2 * bytes;
                const size_t at = static_cast<size_t>(b * capacity + start + t) * bytes;
                std::memcpy(keys + at, row, bytes);
                std::memcpy(values + at, row + bytes, bytes);
            }
        }
    });
}

}  // namespace plinth::kernels::cpu
