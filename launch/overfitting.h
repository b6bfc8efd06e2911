// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>

namespace plinth::launch {

/// Sees the training loss fall while the held-out loss rises.
class OverfittingWatch {
  public:
    /// One evaluation and the mean training loss of the steps before it, which is empty where none
    /// were made, as for the first evaluation of a run or after a resume. One line of warning if,
    /// since the previous evaluation, the held-out loss rose and the training loss fell.
    std::optional<std::string> add(double held_out, std::optional<double> training);

  private:
    std::optional<double> last_held_out_, last_training_;
    double best_held_out_ = 0.0;
};

}  // namespace plinth::launch
