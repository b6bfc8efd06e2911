// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>

#include "parallel/comm/activity.h"

namespace plinth::parallel {

/// How long a rank has made no progress, and how long it may: the base, or several times the
/// longest standstill that this phase has come out of by itself. Where a rank may wait for storage
/// only its patience counts. Times in seconds.
class Pace {
  public:
    Pace(double base, double patience) : base_(base), patience_(patience) {}

    /// Called again and again. A rank that waits for others makes no progress and is not at fault.
    void look(Phase phase, uint64_t ticks, bool waits, double now);
    double quiet() const { return waits_ ? 0.0 : now_ - moved_; }
    double limit() const;

  private:
    /// Standstills vary more than steps do: a page fault, a neighbour on the machine.
    static constexpr double margin = 4.0;

    double base_;
    double patience_;
    std::array<double, phase_count> longest_{};
    Phase phase_ = Phase::start;
    uint64_t ticks_ = 0;
    bool waits_ = false;
    double moved_ = 0.0;
    double now_ = 0.0;
};

}  // namespace plinth::parallel
