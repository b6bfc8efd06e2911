// SPDX-License-Identifier: Apache-2.0
#include "launch/overfitting.h"

#include <fmt/format.h>

#include <algorithm>

namespace plinth::launch {

std::optional<std::string> OverfittingWatch::add(double held_out, std::optional<double> training) {
    std::optional<std::string> warning;
    if (last_held_out_ && last_training_ && training && held_out > *last_held_out_ &&
        *training < *last_training_)
        warning = fmt::format(
            "overfitting: training loss fell from {:.4f} to {:.4f} while held-out loss rose from "
            "{:.4f} to {:.4f} (best {:.4f})",
            *last_training_, *training, *last_held_out_, held_out, best_held_out_);
    best_held_out_ = last_held_out_ ? std::min(best_held_out_, held_out) : held_out;
    last_held_out_ = held_out;
    last_training_ = training;
    return warning;
}

}  // namespace plinth::launch
