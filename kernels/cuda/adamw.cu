// SPDX-License-Identifier: Apache-2.0
#include "kernels/adamw.h"

#include "kernels/cuda/rows.cuh"

namespace plinth::kernels::cuda {

namespace {

constexpr int threads = 256, per_thread = 4;

using Four = Vector<float, per_thread>;

/// Constants as an argument, or where an earlier kernel wrote them: 40 bytes that all threads read.
struct Given {
    AdamWConstants constants;
    __device__ bool goes() const { return true; }
    __device__ const AdamWConstants& get() const { return constants; }
};
struct Decided {
    const float* terms;
    __device__ bool goes() const { return terms[AdamWConstants::words] != 0.0f; }
    __device__ AdamWConstants get() const { return AdamWConstants(terms); }
};

// Moves 28 bytes an element: weight and both moments in and out, the gradient in.
template <typename Source>
__global__ void update(float* w, float* m, float* v, const float* gradient, Source source,
                       int64_t n, bool is_wide) {
    if (!source.goes()) return;
    const AdamWConstants c = source.get();
    const int64_t first = (int64_t{blockIdx.x} * threads + threadIdx.x) * per_thread;
    if (is_wide && first + per_thread <= n) {
        auto *w_at = reinterpret_cast<Four*>(w + first), *m_at = reinterpret_cast<Four*>(m + first),
             *v_at = reinterpret_cast<Four*>(v + first);
        Four weights = *w_at, firsts = *m_at, seconds = *v_at;
        const Four gradients = *reinterpret_cast<const Four*>(gradient + first);
#pragma unroll
        for (int i = 0; i < per_thread; ++i)
            adamw_update(weights.values[i], firsts.values[i], seconds.values[i],
                         gradients.values[i], c);
        *w_at = weights;
        *m_at = firsts;
        *v_at = seconds;
    } else {
        for (int64_t i = first; i < n && i < first + per_thread; ++i)
            adamw_update(w[i], m[i], v[i], gradient[i], c);
    }
}

/// What one element of moments in bf16 is rounded by.
struct Rounding {
    StepKey key;
    ElementRows elements;
};

// Moves 20 bytes an element: the moments are half as long. Ten rounds of Philox for four elements
// where the parameter's quadruples are those of the threads, else for each.
template <typename Source>
__global__ void update_rounded(float* w, BFloat16* m, BFloat16* v, const float* gradient,
                               Source source, Rounding rounding, int64_t n, bool is_wide) {
    if (!source.goes()) return;
    const AdamWConstants c = source.get();
    const RandomKey key = rounding.key.get();
    using Halves = Vector<BFloat16, per_thread>;
    const int64_t first = (int64_t{blockIdx.x} * threads + threadIdx.x) * per_thread;
    if (is_wide && first + per_thread <= n) {
        auto* w_at = reinterpret_cast<Four*>(w + first);
        auto *m_at = reinterpret_cast<Halves*>(m + first),
             *v_at = reinterpret_cast<Halves*>(v + first);
        Four weights = *w_at;
        Halves firsts = *m_at, seconds = *v_at;
        const Four gradients = *reinterpret_cast<const Four*>(gradient + first);
        const auto words = key.words(static_cast<uint64_t>(rounding.elements[first] / per_thread));
#pragma unroll
        for (int i = 0; i < per_thread; ++i)
            adamw_update(weights.values[i], firsts.values[i], seconds.values[i],
                         gradients.values[i], c, words[static_cast<size_t>(i)]);
        *w_at = weights;
        *m_at = firsts;
        *v_at = seconds;
    } else {
        for (int64_t i = first; i < n && i < first + per_thread; ++i) {
            const auto number = static_cast<uint64_t>(rounding.elements[i]);
            adamw_update(w[i], m[i], v[i], gradient[i], c, key.words(number / 4)[number % 4]);
        }
    }
}

void check_same_elements(ConstView a, ConstView b) {
    CHECK(a.elements() == b.elements() && a.is_contiguous() && b.is_contiguous(),
          "adamw: shapes {} and {}", a.shape.text(), b.shape.text());
}

template <typename Source>
void launch(View weight, View first_moment, View second_moment, ConstView gradient,
            const Source& source, const AdamW& options, Stream& stream) {
    check_same_elements(weight, gradient);
    check_same_elements(weight, first_moment);
    check_same_elements(weight, second_moment);
    CHECK(options.elements.is_sound(), "adamw: from element {} on", options.elements.first);
    const int64_t n = weight.elements();
    if (n == 0) return;
    const unsigned blocks = blocks_for(n, threads, per_thread);
    const cudaStream_t queue = queue_of(stream).stream();
    float* w = weight.as<float>();
    const float* g = gradient.as<float>();
    const bool is_aligned_outside = is_aligned(w, sizeof(Four)) && is_aligned(g, sizeof(Four));
    const auto is_wide = [&](const void* m, const void* v, size_t bytes) {
        return is_aligned_outside && is_aligned(m, bytes) && is_aligned(v, bytes);
    };
    if (first_moment.dtype == DType::bf16) {
        auto *m = first_moment.as<BFloat16>(), *v = second_moment.as<BFloat16>();
        const bool wide = is_wide(m, v, sizeof(Four) / 2) && options.elements.keeps_quadruples();
        update_rounded<<<blocks, threads, 0, queue>>>(
            w, m, v, g, source, Rounding{options.rounding, options.elements}, n, wide);
    } else {
        float *m = first_moment.as<float>(), *v = second_moment.as<float>();
        update<<<blocks, threads, 0, queue>>>(w, m, v, g, source, n, is_wide(m, v, sizeof(Four)));
    }
    CUDA_CHECK_LAUNCH("adamw");
}

}  // namespace

void adamw(View weight, View first_moment, View second_moment, ConstView gradient, AdamW options,
           Stream& stream) {
    if (options.skip) return;
    launch(weight, first_moment, second_moment, gradient, Given{AdamWConstants(options)}, options,
           stream);
}

void adamw_decided(View weight, View first_moment, View second_moment, ConstView gradient,
                   ConstView terms, AdamW options, Stream& stream) {
    CHECK(terms.elements() == adamw_words && terms.is_contiguous(), "adamw: terms of shape {}",
          terms.shape.text());
    launch(weight, first_moment, second_moment, gradient, Decided{terms.as<float>()}, options,
           stream);
}

PLINTH_CUDA_KERNEL(adamw);
PLINTH_CUDA_KERNEL(adamw_decided);

}  // namespace plinth::kernels::cuda
