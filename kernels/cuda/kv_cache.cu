// SPDX-License-Identifier: Apache-2.0
#include "kernels/kv_cache.h"

#include "kernels/cuda/copy_rows.cuh"

namespace plinth::kernels::cuda {

namespace {

constexpr int threads = 128;

/// A block has one new token of one sequence. Reads its keys and values and writes them once.
template <typename Unit>
__global__ void __launch_bounds__(threads)
    append_tokens(Unit* k, Unit* v, const Unit* qkv, const int32_t* starts, int64_t tokens,
                  int64_t capacity, int64_t columns, int64_t width, Fault* fault) {
    const int64_t b = int64_t{blockIdx.x} / tokens, t = int64_t{blockIdx.x} % tokens;
    const int64_t start = starts[b];
    if (start < 0 || start + tokens > capacity) {
        if (t == 0 && threadIdx.x == 0)
            report(fault, Fault::cache_is_full, start + tokens, b, capacity);
        return;
    }
    const Unit* row = qkv + (int64_t{blockIdx.x} + 1) * columns - 2 * width;
    const int64_t at = (b * capacity + start + t) * width;
    copy_row(k + at, row, width);
    copy_row(v + at, row + width, width);
}

}  // namespace

void kv_cache_append(View k, View v, ConstView qkv, ConstView starts, Stream& stream) {
    const int64_t batch = qkv.dim(0), tokens = qkv.dim(1), capacity = k.dim(1), width = k.dim(2);
    CHECK(k.shape == v.shape && k.dim(0) == batch && starts.elements() == batch &&
              qkv.dim(2) > 2 * width && k.dtype == qkv.dtype && v.dtype == qkv.dtype &&
              qkv.is_contiguous() && k.is_contiguous() && v.is_contiguous(),
          "kv_cache_append: {} into caches {}", qkv.shape.text(), k.shape.text());
    if (batch * tokens * width == 0) return;
    Queue& queue = queue_of(stream);
    const size_t item = size_of(qkv.dtype), bytes = static_cast<size_t>(width) * item;
    const size_t row = static_cast<size_t>(qkv.dim(2)) * item;
    // Keys begin at whole units of a row of qkv only if the row is whole units too.
    with_copy_unit(
        row % sizeof(uint4) == 0 ? bytes : item, {k.data, v.data, qkv.data},
        [&]<typename Unit>(Unit) {
            append_tokens<<<static_cast<unsigned>(batch * tokens), threads, 0, queue.stream()>>>(
                static_cast<Unit*>(k.data), static_cast<Unit*>(v.data),
                static_cast<const Unit*>(qkv.data), starts.as<int32_t>(), tokens, capacity,
                static_cast<int64_t>(row / sizeof(Unit)),
                static_cast<int64_t>(bytes / sizeof(Unit)), queue.fault());
        });
    CUDA_CHECK_LAUNCH("kv_cache_append");
}

PLINTH_CUDA_KERNEL(kv_cache_append);

}  // namespace plinth::kernels::cuda
