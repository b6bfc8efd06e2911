// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "launch/config/run_config.h"

// Closed formulas over a resolved model section: what the plan prints before anything is built, and
// an independent check of the built model.
namespace plinth::launch {

/// Parameters that are trained and saved, vocabulary padding not counted.
int64_t parameter_count(const ModelSection& model);

/// Parameters that a token is multiplied with: every projection and the head (tied or not), no
/// embedding look-up, norm or bias. The N of "6 N FLOPs a token".
int64_t matmul_parameters(const ModelSection& model);

}  // namespace plinth::launch
