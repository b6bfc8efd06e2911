// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "launch/config/stage_config.h"
#include "launch/session.h"

namespace plinth::launch {

/// `plinth generate`: continues the prompts with a checkpoint's model, on one rank. Prompts and
/// continuations go to standard output, each pair under a heading if there are several; the rate to
/// standard error. The text of a special token in a prompt ("<|endoftext|>") is that token, and an
/// empty prompt is the begin of a document. A continuation ends at the end-of-document token, after
/// max_tokens, or with the model's positions. Returns the exit code.
int generate(const GenerateConfig& config, Session& session);

}  // namespace plinth::launch
