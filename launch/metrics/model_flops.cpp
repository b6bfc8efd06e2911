// SPDX-License-Identifier: Apache-2.0
#include "launch/metrics/model_flops.h"

#include "launch/config/model_size.h"

namespace plinth::launch {

double training_flops_per_token(const ModelSection& model, int64_t sequence_length) {
    return 3 * forward_flops_per_token(model, sequence_length);
}

double forward_flops_per_token(const ModelSection& model, int64_t sequence_length) {
    // Scores and the weighted sum: two products of T x K a head, half of it masked when causal, and
    // all but a band of W below the diagonal with a window: T W - W^2 / 2 of T^2 for the sequence.
    const auto T = static_cast<double>(sequence_length);
    const bool has_window = model.sliding_window > 0 && model.sliding_window < sequence_length;
    const double W = has_window ? static_cast<double>(model.sliding_window) : T;
    const double seen = model.causal ? W - W * W / (2.0 * T) : T;
    const double attention = 4.0 * static_cast<double>(model.layers) *
                             static_cast<double>(model.heads * model.head_width) * seen;
    return 2.0 * static_cast<double>(matmul_parameters(model)) + attention;
}

std::optional<double> model_flops_utilisation(double tokens_per_second, double flops_per_token,
                                              int64_t ranks, double peak_flops) {
    if (peak_flops <= 0) return {};
    return tokens_per_second * flops_per_token / static_cast<double>(ranks) / peak_flops;
}

}  // namespace plinth::launch
