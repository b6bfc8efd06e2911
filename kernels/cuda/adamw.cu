// SPDX-License-Identifier: Apache-2.0
#include "kernels/adamw.h"

#include "kernels/cuda/rows.cuh"

namespace plinth::kernels::cuda {

namespace {

constexpr int threads = 256, per_thread = 4;

using Four = Vector<float, per_thread>;

// Moves 28 bytes an element: weight and both moments in and out, the gradient in.
__global__ void update(float* w, float* m, float* v, const float* gradient, AdamWConstants c,
                       int64_t n, bool is_wide) {
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

void check_same_elements(ConstView a, ConstView b) {
    CHECK(a.elements() == b.elements() && a.is_contiguous() && b.is_contiguous(),
          "adamw: shapes {} and {}", a.shape.text(), b.shape.text());
}

}  // namespace

void adamw(View weight, View first_moment, View second_moment, ConstView gradient, AdamW options,
           Stream& stream) {
    check_same_elements(weight, gradient);
    check_same_elements(weight, first_moment);
    check_same_elements(weight, second_moment);
    if (options.skip || weight.elements() == 0) return;
    float *w = weight.as<float>(), *m = first_moment.as<float>(), *v = second_moment.as<float>();
    const float* g = gradient.as<float>();
    const bool is_wide = is_aligned(w, sizeof(Four)) && is_aligned(m, sizeof(Four)) &&
                         is_aligned(v, sizeof(Four)) && is_aligned(g, sizeof(Four));
    update<<<blocks_for(weight.elements(), threads, per_thread), threads, 0,
             queue_of(stream).stream()>>>(w, m, v, g, AdamWConstants(options), weight.elements(),
                                          is_wide);
    CUDA_CHECK_LAUNCH("adamw");
}

PLINTH_CUDA_KERNEL(adamw);

}  // namespace plinth::kernels::cuda
