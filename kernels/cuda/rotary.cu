// SPDX-License-Identifier: Apache-2.0
#include "kernels/rotary.h"

#include "kernels/cuda/elementwise.cuh"

namespace plinth::kernels::cuda {

namespace {

constexpr int threads = 256, tokens_per_block = 4;

/// Handed over among the kernel's parameters: no copy has to be waited for.
template <int capacity>
struct Frequencies {
    double values[capacity];
};

struct Extents {
    int64_t tokens, columns;
    int half;    ///< K / 2
    int turned;  ///< query and key heads
    int heads;   ///< those, and the value heads where they are to be copied
    double direction;
};

/// Both halves of one vector of pairs.
template <int width, typename T>
__device__ void turn(T* y, const T* x, const float* cosine, const float* sine, int half) {
    using Access = Vector<T, width>;
    const auto a = *reinterpret_cast<const Access*>(x);
    const auto b = *reinterpret_cast<const Access*>(x + half);
    Access first, second;
#pragma unroll
    for (int i = 0; i < width; ++i) {
        const float u = to_float(a.values[i]), v = to_float(b.values[i]);
        first.values[i] = from_float<T>(u * cosine[i] - v * sine[i]);
        second.values[i] = from_float<T>(v * cosine[i] + u * sine[i]);
    }
    *reinterpret_cast<Access*>(y) = first;
    *reinterpret_cast<Access*>(y + half) = second;
}

/// A block turns all heads of its tokens, whose cosines and sines it computes once, in double:
/// reads and writes each query and key head once.
template <int width, int capacity, typename T>
__global__ void __launch_bounds__(threads)
    turn_tokens(T* y, const T* qkv, const int32_t* positions,
                const __grid_constant__ Frequencies<capacity> frequencies, Extents extents) {
    extern __shared__ float4 shared[];  // [tokens_per_block][2][half]; float4 for its alignment
    auto* table = reinterpret_cast<float*>(shared);
    const int64_t first = int64_t{blockIdx.x} * tokens_per_block;
    const auto tokens = static_cast<int>(min(int64_t{tokens_per_block}, extents.tokens - first));
    const int half = extents.half, thread = static_cast<int>(threadIdx.x);
    for (int i = thread; i < tokens * half; i += threads) {
        const int token = i / half, j = i % half;
        double sine, cosine;
        sincos(static_cast<double>(positions[first + token]) * frequencies.values[j], &sine,
               &cosine);
        table[token * 2 * half + j] = static_cast<float>(cosine);
        table[token * 2 * half + half + j] = static_cast<float>(extents.direction * sine);
    }
    __syncthreads();
    const int vectors = half / width, per_token = extents.heads * vectors;
    for (int i = thread; i < tokens * per_token; i += threads) {
        const int token = i / per_token, head = i % per_token / vectors;
        const int j = i % vectors * width;
        const int64_t at = (first + token) * extents.columns + int64_t{head} * 2 * half + j;
        const float* cosine = table + token * 2 * half + j;
        if (head < extents.turned) {
            turn<width>(y + at, qkv + at, cosine, cosine + half, half);
        } else {
            using Access = Vector<T, width>;
            *reinterpret_cast<Access*>(y + at) = *reinterpret_cast<const Access*>(qkv + at);
            *reinterpret_cast<Access*>(y + at + half) =
                *reinterpret_cast<const Access*>(qkv + at + half);
        }
    }
}

template <int capacity, typename T>
void turn_all(T* y, const T* qkv, const int32_t* positions, const std::vector<double>& frequencies,
              const Extents& extents, Queue& queue) {
    Frequencies<capacity> parameters{};
    std::copy(frequencies.begin(), frequencies.end(), parameters.values);
    const bool wide = extents.half % widest<T> == 0 && are_aligned({y, qkv});
    const auto kernel = wide ? &turn_tokens<widest<T>, capacity, T> : &turn_tokens<1, capacity, T>;
    const auto bytes = static_cast<size_t>(tokens_per_block * 2 * extents.half) * sizeof(float);
    kernel<<<blocks_for(extents.tokens, tokens_per_block), threads, bytes, queue.stream()>>>(
        y, qkv, positions, parameters, extents);
    CUDA_CHECK_LAUNCH("rotary");
}

}  // namespace

void rotary(View y, ConstView qkv, ConstView positions, Rotary options, bool backward,
            Stream& stream) {
    constexpr int usual = 64, most = 1024;  // pairs; the parameters of a kernel hold 32 KB
    check_same_elements("rotary", y, qkv);
    const int64_t columns = qkv.dim(-1), all_heads = options.heads + 2 * options.kv_heads;
    const int64_t width = all_heads > 0 ? columns / all_heads : 0, tokens = qkv.shape.rows();
    CHECK(width > 0 && width % 2 == 0 && width * all_heads == columns &&
              positions.elements() == tokens,
          "rotary: qkv {} does not hold {} query and twice {} key/value heads of even width for "
          "positions {}",
          qkv.shape.text(), options.heads, options.kv_heads, positions.shape.text());
    CHECK(width <= 2 * most && columns < 1 << 29, "rotary on CUDA: heads of {} in rows of {}",
          width, columns);
    if (tokens == 0) return;
    const int64_t turned = options.heads + options.kv_heads;
    const Extents extents{.tokens = tokens,
                          .columns = columns,
                          .half = static_cast<int>(width / 2),
                          .turned = static_cast<int>(turned),
                          .heads = static_cast<int>(y.data == qkv.data ? turned : all_heads),
                          .direction = backward ? -1.0 : 1.0};
    const std::vector<double> frequencies = rotary_frequencies(width, options);
    with_device_float(qkv.dtype, "rotary", [&]<typename T>(T) {
        const auto launch = extents.half <= usual ? &turn_all<usual, T> : &turn_all<most, T>;
        launch(y.as<T>(), qkv.as<T>(), positions.as<int32_t>(), frequencies, extents,
               queue_of(stream));
    });
}

PLINTH_CUDA_KERNEL(rotary);

}  // namespace plinth::kernels::cuda
