// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace plinth::launch {

/// When a run must stop for its last checkpoint to be written before run.time_limit. All in
/// seconds; what has not happened yet in this process counts as 0.
struct TimeLimit {
    double limit = 0.0;  ///< since the process started; 0: none
    double longest_step = 0.0;
    double longest_evaluation = 0.0;
    double longest_sample = 0.0;
    double longest_save = 0.0;  ///< from its begin to the end of retention

    /// Asked at the end of each step, when the run could still stop right away. If it goes on, it
    /// ends only after what is due now, one more step (counted twice, for they vary), the save that
    /// is under way by then and the last one.
    bool is_near(double now, bool evaluates, bool samples) const {
        const double rest = 2.0 * longest_step + (evaluates ? longest_evaluation : 0.0) +
                            (samples ? longest_sample : 0.0) + 2.0 * longest_save;
        return limit > 0 && now + rest > limit;
    }
};

}  // namespace plinth::launch
