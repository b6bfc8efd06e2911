// SPDX-License-Identifier: Apache-2.0
#include "kernels/adamw.h"

#include "kernels/cpu/elementwise.h"
#include "kernels/simd.h"

namespace plinth::kernels::cpu {

namespace {

PLINTH_SIMD void update(float* w, float* m, float* v, const float* gradient,
                        const AdamWConstants& c, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i)
        adamw_update(w[i], m[i], v[i], gradient[i], c);
}

}  // namespace

void adamw(View weight, View first_moment, View second_moment, ConstView gradient, AdamW options,
           Stream& stream) {
    check_same_elements("adamw", weight, gradient);
    check_same_elements("adamw", weight, first_moment);
    check_same_elements("adamw", weight, second_moment);
    if (options.skip) return;
    const AdamWConstants constants(options);
    float *w = weight.as<float>(), *m = first_moment.as<float>(), *v = second_moment.as<float>();
    const float* g = gradient.as<float>();
    parallel_for(stream, weight.elements(), elementwise_grain, [&](int64_t begin, int64_t end) {
        update(w + begin, m + begin, v + begin, g + begin, constants, end - begin);
    });
}

}  // namespace plinth::kernels::cpu
