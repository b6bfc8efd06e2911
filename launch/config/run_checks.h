// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>

#include "launch/config/run_config.h"

// How keys fit each other, one question a function; `validate` in run_config.h asks them all. Each
// gives the first problem that it finds, or none.
namespace plinth::launch {

/// The smallest batch that any step of the run has.
int64_t smallest_batch(const TrainSection& train);
std::optional<Problem> check_ramp(const TrainSection& train);
std::optional<Problem> check_sources(const DataSection& data);
std::optional<Problem> check_lengths(const RunConfig& config);
/// How the keys of a pipeline fit each other and the model.
std::optional<Problem> check_pipeline(const ParallelSection& parallel, const ModelSection& model);
/// Context ranks share the tokens of a sequence by pairs of runs, tensor ranks those of each part.
std::optional<Problem> check_tokens(const RunConfig& config);
/// What the ranks of a tensor group must be able to divide among them.
std::optional<Problem> check_tensor(const ParallelSection& parallel, const ModelSection& model);
/// What 8-bit products ask of the extents of each product on a rank.
std::optional<Problem> check_fp8(const RunConfig& config);
/// What a captured micro-batch or update cannot hold: what differs from one to the next and is no
/// content of tensors, and work of other ranks or of the host.
std::optional<Problem> check_graphs(const RunConfig& config);
/// What layouts there are not.
std::optional<Problem> check_available(const ParallelSection& parallel);

}  // namespace plinth::launch
