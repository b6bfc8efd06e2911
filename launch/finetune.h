// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "launch/config/stage_config.h"
#include "launch/session.h"

namespace plinth::launch {

/// The name under which checkpoints of a fine-tuning run store its FinetuneConfig, labels filled
/// in.
inline constexpr const char* finetune_blob = "finetune";

/// `plinth finetune`: goes on training the model in checkpoint.init on text, on responses to
/// prompts, or on labels through a new head; by the loop of pretraining, so it resumes and runs on
/// several ranks like that. `dry_run`: reads checkpoint and examples (shards without
/// hashing them), prints the plan and stops.
/// Returns the exit code.
int finetune(const FinetuneConfig& config, Session& session, bool dry_run);

}  // namespace plinth::launch
