// SPDX-License-Identifier: Apache-2.0
#include "kernels/dropout.h"

#include "kernels/cuda/elementwise.cuh"

namespace plinth::kernels::cuda {

namespace {

constexpr int threads = 256;

struct Draw {
    StepKey key;
    ElementNumbers numbers;
    uint32_t threshold;  ///< an element is lost if its word is below
    float factor;        ///< of those that stay
};

template <typename T>
__device__ T dropped(T x, const T* residual, int64_t at, uint32_t word, const Draw& draw) {
    const float kept = to_float(x) * (word < draw.threshold ? 0.0f : draw.factor);
    return from_float<T>(residual ? to_float(residual[at]) + kept : kept);
}

/// Runs of a sample begin with whole quadruples, at multiples of the vector: a thread takes 16
/// bytes.
template <typename T>
__global__ void __launch_bounds__(threads)
    drop_vectors(T* y, const T* residual, const T* x, const int64_t* samples, Draw draw,
                 int64_t batch, int64_t n) {
    constexpr int width = widest<T>;
    const int64_t first = (int64_t{blockIdx.x} * threads + threadIdx.x) * width;
    if (first >= n) return;
    const RandomKey key = draw.key.get();
    for (int64_t b = blockIdx.y; b < batch; b += gridDim.y) {
        const int64_t at = b * n + first;
        const auto in = *reinterpret_cast<const Vector<T, width>*>(x + at);
        Vector<T, width> before, out;
        if (residual) before = *reinterpret_cast<const Vector<T, width>*>(residual + at);
        const auto sample = static_cast<uint64_t>(samples[b]);
#pragma unroll
        for (int q = 0; q < width / 4; ++q) {
            const auto words =
                key.words(static_cast<uint64_t>(draw.numbers[first] / 4 + q), sample);
#pragma unroll
            for (int j = 0; j < 4; ++j)
                out.values[4 * q + j] =
                    dropped(in.values[4 * q + j], residual ? before.values : nullptr, 4 * q + j,
                            words[static_cast<size_t>(j)], draw);
        }
        *reinterpret_cast<Vector<T, width>*>(y + at) = out;
    }
}

/// Elements [begin, end) of any part of a sample, in one run: a thread takes one quadruple, as far
/// as it is in the run.
template <typename T>
__global__ void __launch_bounds__(threads)
    drop_quadruples(T* y, const T* residual, const T* x, const int64_t* samples, Draw draw,
                    int64_t batch, int64_t n, int64_t begin, int64_t end) {
    const int64_t number = draw.numbers[begin];
    const int64_t quadruple = number / 4 + int64_t{blockIdx.x} * threads + threadIdx.x;
    const int64_t first = begin + quadruple * 4 - number;
    if (first >= end) return;
    const RandomKey key = draw.key.get();
    for (int64_t b = blockIdx.y; b < batch; b += gridDim.y) {
        const auto words =
            key.words(static_cast<uint64_t>(quadruple), static_cast<uint64_t>(samples[b]));
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            if (first + j < begin || first + j >= end) continue;
            const int64_t at = b * n + first + j;
            y[at] = dropped(x[at], residual, at, words[static_cast<size_t>(j)], draw);
        }
    }
}

template <typename T>
void drop(T* y, const T* residual, const T* x, const int64_t* samples, const Draw& draw,
          int64_t batch, int64_t n, Queue& queue) {
    const auto rows = static_cast<unsigned>(std::min<int64_t>(batch, 65535));
    const int64_t turn = std::min(n, draw.numbers.turn);
    const bool wide = draw.numbers[0] % 4 == 0 && draw.numbers.skipped % 4 == 0 &&
                      turn % widest<T> == 0 && n % widest<T> == 0 && are_aligned({y, residual, x});
    if (wide) {
        drop_vectors<<<dim3(blocks_for(n, threads, widest<T>), rows), threads, 0, queue.stream()>>>(
            y, residual, x, samples, draw, batch, n);
        CUDA_CHECK_LAUNCH("dropout");
        return;
    }
    for (const auto& [begin, end] : {std::pair{int64_t{0}, turn}, std::pair{turn, n}}) {
        if (begin == end) continue;
        // One quadruple more: the first and the last may both be parts.
        drop_quadruples<<<dim3(blocks_for(end - begin + 4, threads, 4), rows), threads, 0,
                          queue.stream()>>>(y, residual, x, samples, draw, batch, n, begin, end);
        CUDA_CHECK_LAUNCH("dropout");
    }
}

}  // namespace

/// Reads x and the residual and writes y once; ten rounds of Philox for four elements.
void dropout(View y, ConstView residual, ConstView x, ConstView samples, Dropout options,
             Stream& stream) {
    check_same_elements("dropout", y, x);
    if (residual) check_same_elements("dropout", y, residual);
    CHECK(options.probability >= 0.0f && options.probability < 1.0f && options.numbers.is_sound(),
          "dropout of {} from element {} on", options.probability, options.numbers.first);
    CHECK(samples.elements() == x.dim(0), "dropout: {} sample numbers for {}", samples.elements(),
          x.shape.text());
    if (x.elements() == 0) return;
    const int64_t batch = x.dim(0);
    const Draw draw{options.key, options.numbers,
                    static_cast<uint32_t>(static_cast<double>(options.probability) * 0x1p32),
                    1.0f / (1.0f - options.probability)};
    with_device_float(x.dtype, "dropout", [&]<typename T>(T) {
        drop(y.as<T>(), residual ? residual.as<T>() : nullptr, x.as<T>(), samples.as<int64_t>(),
             draw, batch, x.elements() / batch, queue_of(stream));
    });
}

PLINTH_CUDA_KERNEL(dropout);

}  // namespace plinth::kernels::cuda
