// SPDX-License-Identifier: Apache-2.0
#include "kernels/fp8_history.h"

#include "kernels/cuda/rows.cuh"

namespace plinth::kernels::cuda {

namespace {

/// One block each: some hundred numbers, once a step.
constexpr int threads = 256;

__global__ void scales_of_history(float* scales, int64_t* lasts, const float* history,
                                  const int64_t* count, int64_t n) {
    __shared__ int missing;  // of all steps that a history may last, the most
    if (threadIdx.x == 0) missing = 0;
    __syncthreads();
    for (int64_t i = threadIdx.x; i < n; i += threads) {
        const Fp8Known known = fp8_known(history, *count, n, i);
        scales[i] = known.scale;
        atomicMax(&missing, static_cast<int>(fp8_history_steps) - known.lasts);
    }
    __syncthreads();
    if (threadIdx.x == 0) *lasts = fp8_history_steps - missing;
}

__global__ void words_of_magnitudes(int64_t* words, const float* largest, int64_t n) {
    __shared__ uint32_t most;
    if (threadIdx.x == 0) most = 0;
    __syncthreads();
    for (int64_t i = threadIdx.x; i < n; i += threads) {
        const uint32_t bits = __float_as_uint(largest[i]);
        words[i] = bits;
        atomicMax(&most, bits);
    }
    __syncthreads();
    if (threadIdx.x == 0) words[n] = most;
}

__global__ void push_row(float* history, int64_t* count, const int64_t* words,
                         const double* outcome, int64_t n) {
    if (outcome && outcome[StepWord::updates_here] != 1.0) return;
    const int64_t before = *count;
    for (int64_t i = threadIdx.x; i < n; i += threads)
        history[before % fp8_history_steps * n + i] =
            __uint_as_float(static_cast<uint32_t>(words[i]));
    __syncthreads();  // all have read the count
    if (threadIdx.x == 0) *count = before + 1;
}

}  // namespace

void fp8_history_scales(View scales, View lasts, ConstView history, ConstView count,
                        Stream& stream) {
    check_fp8_history_scales(scales, lasts, history, count);
    scales_of_history<<<1, threads, 0, queue_of(stream).stream()>>>(
        scales.as<float>(), lasts.as<int64_t>(), history.as<float>(), count.as<int64_t>(),
        scales.elements());
    CUDA_CHECK_LAUNCH("fp8_history_scales");
}

void fp8_history_words(View words, ConstView largest, Stream& stream) {
    check_fp8_history_words(words, largest);
    words_of_magnitudes<<<1, threads, 0, queue_of(stream).stream()>>>(
        words.as<int64_t>(), largest.as<float>(), largest.elements());
    CUDA_CHECK_LAUNCH("fp8_history_words");
}

void fp8_history_push(View history, View count, ConstView words, ConstView outcome,
                      Stream& stream) {
    check_fp8_history_push(history, count, words, outcome);
    push_row<<<1, threads, 0, queue_of(stream).stream()>>>(
        history.as<float>(), count.as<int64_t>(), words.as<int64_t>(),
        outcome ? outcome.as<double>() : nullptr, words.elements() - 1);
    CUDA_CHECK_LAUNCH("fp8_history_push");
}

PLINTH_CUDA_KERNEL(fp8_history_scales);
PLINTH_CUDA_KERNEL(fp8_history_words);
PLINTH_CUDA_KERNEL(fp8_history_push);

}  // namespace plinth::kernels::cuda
