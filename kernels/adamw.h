// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <vector>

#include "kernels/element_rows.h"
#include "kernels/kernel.h"
#include "kernels/runtime/step_key.h"
#include "kernels/stochastic_rounding.h"

namespace plinth::kernels {

/// One AdamW update. The bias corrections 1 - beta^t are the caller's, in double.
struct AdamW {
    double learning_rate = 0.0;
    double beta1 = 0.9;
    double beta2 = 0.95;
    double eps = 1e-8;
    double weight_decay = 0.0;
    double bias_correction1 = 1.0;  ///< 1 - beta1^t
    double bias_correction2 = 1.0;  ///< 1 - beta2^t
    double gradient_scale = 1.0;    ///< clip factor / global weight, applied to the gradient first
    bool skip = false;              ///< a non-finite step: nothing changes
    StepKey rounding;               ///< of moments in bf16: of the run, the parameter, the step
    ElementRows elements;           ///< of the parameter; what moments in bf16 are rounded by
};

/// The options as a loop over elements needs them, rounded to fp32 once.
struct AdamWConstants {
    float beta1, one_minus_beta1, beta2, one_minus_beta2, eps, keep, step_size, inverse_root2,
        scale;

    PLINTH_HOST_DEVICE explicit AdamWConstants(const AdamW& options)
        : beta1(static_cast<float>(options.beta1)),
          one_minus_beta1(static_cast<float>(1.0 - options.beta1)),
          beta2(static_cast<float>(options.beta2)),
          one_minus_beta2(static_cast<float>(1.0 - options.beta2)),
          eps(static_cast<float>(options.eps)),
          keep(static_cast<float>(1.0 - options.learning_rate * options.weight_decay)),
          step_size(static_cast<float>(options.learning_rate / options.bias_correction1)),
          inverse_root2(static_cast<float>(1.0 / std::sqrt(options.bias_correction2))),
          scale(static_cast<float>(options.gradient_scale)) {}

    /// As words of memory, in the order of the members.
    static constexpr int words = 9;
    PLINTH_HOST_DEVICE explicit AdamWConstants(const float* from)
        : beta1(from[0]),
          one_minus_beta1(from[1]),
          beta2(from[2]),
          one_minus_beta2(from[3]),
          eps(from[4]),
          keep(from[5]),
          step_size(from[6]),
          inverse_root2(from[7]),
          scale(from[8]) {}
    PLINTH_HOST_DEVICE void write(float* to) const {
        const float all[words] = {beta1,     one_minus_beta1, beta2, one_minus_beta2, eps, keep,
                                  step_size, inverse_root2,   scale};
        for (int i = 0; i < words; ++i)
            to[i] = all[i];
    }
};

/// What an update reads where the device decided it: the constants, then 1, or 0 where nothing
/// changes.
inline constexpr int64_t adamw_words = AdamWConstants::words + 1;

/// The update of one element; the same bits on every device.
PLINTH_HOST_DEVICE PLINTH_INLINE void adamw_update(float& w, float& m, float& v, float gradient,
                                                   const AdamWConstants& c) {
    const float g = c.scale * gradient;
    m = c.beta1 * m + c.one_minus_beta1 * g;
    v = c.beta2 * v + c.one_minus_beta2 * (g * g);
    w = w * c.keep - c.step_size * m / (__builtin_sqrtf(v) * c.inverse_root2 + c.eps);
}

/// The same with moments in bf16: weights move by the moments before these are rounded. `word` is
/// the element's random number, one half for each moment.
PLINTH_HOST_DEVICE PLINTH_INLINE void adamw_update(float& w, BFloat16& m, BFloat16& v,
                                                   float gradient, const AdamWConstants& c,
                                                   uint32_t word) {
    auto first = static_cast<float>(m), second = static_cast<float>(v);
    adamw_update(w, first, second, gradient, c);
    m = round_stochastically(first, word & 0xffffu);
    v = round_stochastically(second, word >> 16);
}

/// In place over n elements, weights and gradients in fp32, both moments in fp32 or both in bf16
/// (Loshchilov and Hutter 2019): g = scale * gradient;
/// m = beta1 m + (1 - beta1) g; v = beta2 v + (1 - beta2) g^2;
/// w = w (1 - lr decay) - lr (m / correction1) / (sqrt(v / correction2) + eps).
///
/// Moments in bf16 are rounded stochastically: to the nearest, a second moment with beta2 = 0.999
/// would stand still, for a change by less than 2^-9 of it is lost. Element e of the parameter
/// takes word e mod 4 of rounding.words(e / 4), so that no cut and no layout changes a bit.
PLINTH_KERNEL(adamw, View weight, View first_moment, View second_moment, ConstView gradient,
              AdamW options);

/// Consecutive elements of a parameter, of those that one update changes.
struct AdamWPart {
    View weight, first_moment, second_moment;
    ConstView gradient;
    bool decays = true;    ///< false: whatever the weight decay is
    StepKey rounding;      ///< as in AdamW
    ElementRows elements;  ///< as in AdamW
};

/// The same update of many parts, all with moments of one dtype, in a few launches on a device: the
/// bits of one call for each. Of the options `rounding` and `elements` are not read.
PLINTH_KERNEL(adamw_parts, std::vector<AdamWPart> parts, AdamW options);

/// The same with `terms` f32 [2, adamw_words] that an earlier kernel wrote (decide_step): of parts
/// that decay, and of others.
PLINTH_KERNEL(adamw_decided, std::vector<AdamWPart> parts, ConstView terms);

/// The constants of parts that do not decay.
PLINTH_HOST_DEVICE inline AdamW without_decay(AdamW options) {
    options.weight_decay = 0.0;
    return options;
}

}  // namespace plinth::kernels
