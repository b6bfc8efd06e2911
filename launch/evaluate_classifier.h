// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "launch/config/stage_config.h"
#include "launch/session.h"

namespace plinth::launch {

/// Collective. `plinth evaluate evaluate.format=classification`: accuracy, precision, recall and F1
/// of a classifier on labelled TSV or JSONL, a table an input on standard output, JSON in
/// evaluate.output. Returns the exit code.
int evaluate_classifier(const EvaluateConfig& config, Session& session);

}  // namespace plinth::launch
