// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "core/inference/decoder.h"
#include "launch/config/stage_config.h"
#include "launch/restored_model.h"
#include "launch/session.h"

namespace plinth::launch {

/// Collective. Continues the prompts, which copies of the model take in turn; every rank returns
/// all texts. `on_token` is called for every token in the order of the prompts: for those of this
/// rank's copy as they come, for those of others when they are done.
std::vector<std::vector<int32_t>> continue_prompts(const RestoredModel& restored,
                                                   const std::vector<std::vector<int32_t>>& prompts,
                                                   core::inference::DecodeConfig config,
                                                   Session& session,
                                                   const core::inference::OnToken& on_token = {});

/// Collective. `plinth generate`: continues the prompts with a checkpoint's model. Prompts and
/// continuations go to rank 0's standard output, each pair under a heading if there are several;
/// the rate to standard error. The text of a special token in a prompt ("<|endoftext|>") is that
/// token, and an empty prompt is the begin of a document. A continuation ends at the
/// end-of-document token, after max_tokens, or with the model's positions. Returns the exit code.
int generate(const GenerateConfig& config, Session& session);

}  // namespace plinth::launch
