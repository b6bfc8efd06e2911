// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <limits>

#include "kernels/adamw.h"
#include "kernels/exact_sum.h"
#include "kernels/kernel.h"

namespace plinth::kernels {

/// What the host knows of an optimizer step when it hands out the work. The step before may still
/// be under way, so that it does not know whether that one updates.
struct StepTerms {
    /// Updates that this step's may come after, beside those that the host knows of.
    static constexpr int most_ahead = 1;

    AdamW adamw;        ///< bias corrections and gradient_scale are left out
    double clip = 0.0;  ///< largest norm of the mean gradient; 0: any
    int64_t known_updates = 0;
    /// 1 - beta^t of the update after those, and of the ones after it.
    double bias_correction1[most_ahead + 1]{}, bias_correction2[most_ahead + 1]{};
};

/// Places in `outcome`.
struct StepWord {
    static constexpr int weight = 0;         ///< of the step's tokens, at least 1
    static constexpr int loss = 1;           ///< cross-entropy, mean over the weight
    static constexpr int z_loss = 2;         ///< what is minimised beside it, as a mean
    static constexpr int gradient_norm = 3;  ///< of the mean gradient, before clipping
    static constexpr int updates_here = 4;   ///< 1, or 0: the step is not finite and is skipped
    static constexpr int updates = 5;        ///< made so far, this step's included
    static constexpr int count = 6;
};

/// The arithmetic of decide_step; the same bits on every device.
PLINTH_HOST_DEVICE inline void decide(double* outcome, float* terms, const double* losses,
                                      const int64_t* weights, int64_t slots, const int64_t* squares,
                                      const StepTerms& known) {
    double cross_entropy = 0.0, z_loss = 0.0;
    int64_t tokens = 0;
    for (int64_t slot = 0; slot < slots; ++slot) {
        const double sum = losses[2 * slot], reported = losses[2 * slot + 1];
        cross_entropy += reported;
        z_loss += sum - reported;
        tokens += weights[slot];
    }
    const auto weight = static_cast<double>(tokens > 1 ? tokens : 1);
    const double square = squares[ExactSum::limb_count] > 0
                              ? std::numeric_limits<double>::quiet_NaN()
                              : exact_value(squares, ExactSum::limb_count);
    const double loss = cross_entropy / weight, norm = std::sqrt(square) / weight;
    const double updates = outcome[StepWord::updates];
    const int64_t ahead = static_cast<int64_t>(updates) - known.known_updates;
    const bool is_foreseen = ahead >= 0 && ahead <= StepTerms::most_ahead;
    // A difference of what is not finite is no zero.
    const bool goes = is_foreseen && loss - loss == 0.0 && norm - norm == 0.0;
    outcome[StepWord::weight] = weight;
    outcome[StepWord::loss] = loss;
    outcome[StepWord::z_loss] = z_loss / weight;
    outcome[StepWord::gradient_norm] = norm;
    outcome[StepWord::updates_here] = goes ? 1.0 : 0.0;
    outcome[StepWord::updates] = !is_foreseen ? -1.0 : goes ? updates + 1.0 : updates;
    AdamW options = known.adamw;
    const int64_t at = is_foreseen ? ahead : 0;
    options.bias_correction1 = known.bias_correction1[at];
    options.bias_correction2 = known.bias_correction2[at];
    options.gradient_scale =
        (known.clip > 0.0 && norm > known.clip ? known.clip / norm : 1.0) / weight;
    for (int row = 0; row < 2; ++row) {
        if (row == 1) options.weight_decay = 0.0;
        float* words = terms + row * adamw_words;
        AdamWConstants(options).write(words);
        words[AdamWConstants::words] = goes ? 1.0f : 0.0f;
    }
}

/// number i64 [1] = the step's: where kernels find it that were captured once (StepNumber).
PLINTH_KERNEL(set_step_number, View number, int64_t step);

/// What a step comes to, for a host that does not wait for it.
///
/// outcome f64 [StepWord::count], overwritten but for `updates`, to which this step's is added; -1
/// there where the host has counted otherwise, and then nothing updates. terms f32 [2, adamw_words]
/// for adamw_decided: with weight decay, without. losses f64 [slots, 2]: of each micro-batch what
/// is differentiated and the cross-entropy in it, as sums; weights i64 [slots]: their tokens.
/// squares i64: the gradient's sum of squares as exact_sum_of_blocks gives it.
PLINTH_KERNEL(decide_step, View outcome, View terms, ConstView losses, ConstView weights,
              ConstView squares, StepTerms known);

}  // namespace plinth::kernels
