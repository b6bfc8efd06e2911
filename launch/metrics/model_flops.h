// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>

#include "launch/config/run_config.h"

namespace plinth::launch {

/// Model FLOPs of training on one token, forward and backward, of a resolved model:
///
///     6 N + 6 L H K T     causal: a token sees half of the T positions on average
///     6 N + 12 L H K T    otherwise
///     6 N + 12 L H K (W - W^2 / 2T)    causal with a sliding window of W < T tokens
///
/// N: parameters in matrix products (every projection and the head, no look-up), L layers, H heads,
/// K head width, T sequence length. A product of an m x k and a k x n matrix counts 2 m k n; the
/// backward pass counts twice the forward pass. Recomputation is never counted.
double training_flops_per_token(const ModelSection& model, int64_t sequence_length);

/// The forward pass alone: a third of that.
double forward_flops_per_token(const ModelSection& model, int64_t sequence_length);

/// Model-FLOPs utilisation of one rank: tokens/s of all ranks x FLOPs per token / ranks / peak.
/// Empty when the peak is not known (0).
std::optional<double> model_flops_utilisation(double tokens_per_second, double flops_per_token,
                                              int64_t ranks, double peak_flops);

}  // namespace plinth::launch
