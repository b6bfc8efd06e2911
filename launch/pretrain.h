// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "launch/session.h"
#include "launch/training.h"

namespace plinth::launch {

/// The training loop. Returns the exit code.
int train(Training& run, core::models::Model& model);

/// `plinth pretrain`: trains the configured model until its steps are done, a signal comes or the
/// time is up. `dry_run`: checks what it would begin from, prints the plan and stops. Returns the
/// exit code.
int pretrain(const RunConfig& config, Session& session, bool dry_run);

}  // namespace plinth::launch
