// SPDX-License-Identifier: Apache-2.0
#include "parallel/comm/pace.h"

#include <algorithm>

namespace plinth::parallel {

void Pace::look(Phase phase, uint64_t ticks, bool waits, double now) {
    const bool moved = phase != phase_ || ticks != ticks_ || waits != waits_;
    if (moved && !waits_) {
        double& longest = longest_[static_cast<size_t>(phase_)];
        longest = std::max(longest, now - moved_);
    }
    if (moved || waits) moved_ = now;
    phase_ = phase;
    ticks_ = ticks;
    waits_ = waits;
    now_ = now;
}

double Pace::limit() const {
    if (may_wait_for_storage(phase_)) return std::max(base_, patience_);
    return std::max(base_, margin * longest_[static_cast<size_t>(phase_)]);
}

}  // namespace plinth::parallel
