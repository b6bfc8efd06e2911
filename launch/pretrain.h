// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "launch/session.h"
#include "launch/training.h"

namespace plinth::launch {

/// The training loop. Returns the exit code.
int train(Training& run, core::models::Model& model);

/// `plinth pretrain`: trains the configured model until its steps are done, a signal comes or the
/// time is up. Returns the exit code.
int pretrain(const RunConfig& config, Session& session);

}  // namespace plinth::launch
