// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace plinth::core::optim {

/// The learning rate as a pure function of the step.
struct Schedule {
    enum class Kind {
        constant,  ///< the peak after the warm-up
        cosine,    ///< half a cosine from the peak to the minimum (Loshchilov and Hutter 2017)
        linear,    ///< a straight line from the peak to the minimum
        wsd,  ///< warm-up, stable at the peak, then linear to the minimum over the last decay_steps
              ///< (Hu et al. 2024)
    } kind = Kind::cosine;
    double peak = 0.0;
    double minimum = 0.0;
    int64_t warmup_steps = 0;
    int64_t decay_steps = 0;  ///< steps from the end of the warm-up to the minimum; for wsd, length
                              ///< of the final decay
    int64_t total_steps = 0;

    /// Rate of step 0, 1, ...: rises linearly as (step + 1) / warmup_steps * peak, then by kind;
    /// past the end it stays.
    double rate(int64_t step) const;
};

}  // namespace plinth::core::optim
