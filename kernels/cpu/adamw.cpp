// SPDX-License-Identifier: Apache-2.0
#include "kernels/adamw.h"

#include <cmath>

#include "kernels/cpu/elementwise.h"
#include "kernels/simd.h"

namespace plinth::kernels::cpu {

namespace {

/// The options as the row loop needs them, rounded to fp32 once.
struct Constants {
    float beta1, one_minus_beta1, beta2, one_minus_beta2, eps, keep, step_size, inverse_root2,
        scale;

    explicit Constants(const AdamW& options)
        : beta1(static_cast<float>(options.beta1)),
          one_minus_beta1(static_cast<float>(1.0 - options.beta1)),
          beta2(static_cast<float>(options.beta2)),
          one_minus_beta2(static_cast<float>(1.0 - options.beta2)),
          eps(static_cast<float>(options.eps)),
          keep(static_cast<float>(1.0 - options.learning_rate * options.weight_decay)),
          step_size(static_cast<float>(options.learning_rate / options.bias_correction1)),
          inverse_root2(static_cast<float>(1.0 / std::sqrt(options.bias_correction2))),
          scale(static_cast<float>(options.gradient_scale)) {}
};

PLINTH_SIMD void update(float* w, float* m, float* v, const float* gradient, const Constants& c,
                        int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) {
        const float g = c.scale * gradient[i];
        m[i] = c.beta1 * m[i] + c.one_minus_beta1 * g;
        v[i] = c.beta2 * v[i] + c.one_minus_beta2 * (g * g);
        w[i] =
            w[i] * c.keep - c.step_size * m[i] / (__builtin_sqrtf(v[i]) * c.inverse_root2 + c.eps);
    }
}

}  // namespace

void adamw(View weight, View first_moment, View second_moment, ConstView gradient, AdamW options,
           Stream& stream) {
    check_same_elements("adamw", weight, gradient);
    check_same_elements("adamw", weight, first_moment);
    check_same_elements("adamw", weight, second_moment);
    if (options.skip) return;
    const Constants constants(options);
    float *w = weight.as<float>(), *m = first_moment.as<float>(), *v = second_moment.as<float>();
    const float* g = gradient.as<float>();
    parallel_for(stream, weight.elements(), elementwise_grain, [&](int64_t begin, int64_t end) {
        update(w + begin, m + begin, v + begin, g + begin, constants, end - begin);
    });
}

}  // namespace plinth::kernels::cpu
