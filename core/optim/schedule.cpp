// SPDX-License-Identifier: Apache-2.0
#include "core/optim/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace plinth::core::optim {

namespace {

/// done/length, clamped to [0, 1].
double fraction(int64_t done, int64_t length) {
    if (length <= 0) return 1.0;
    return std::clamp(static_cast<double>(done) / static_cast<double>(length), 0.0, 1.0);
}

}  // namespace

double Schedule::rate(int64_t step) const {
    if (step < warmup_steps)
        return peak * static_cast<double>(step + 1) / static_cast<double>(warmup_steps);
    const int64_t rest = decay_steps > 0 ? decay_steps : total_steps - warmup_steps;
    const double span = peak - minimum;
    switch (kind) {
        case Kind::constant:
            return peak;
        case Kind::cosine:
            return minimum +
                   span * 0.5 *
                       (1.0 + std::cos(std::numbers::pi * fraction(step - warmup_steps, rest)));
        case Kind::linear:
            return peak - span * fraction(step - warmup_steps, rest);
        case Kind::wsd: {
            const int64_t begin = std::max(warmup_steps, total_steps - decay_steps);
            return step < begin ? peak : peak - span * fraction(step - begin, total_steps - begin);
        }
    }
    return peak;
}

}  // namespace plinth::core::optim
