// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "core/data/tokenizer.h"
#include "core/models/model.h"
#include "launch/session.h"
#include "parallel/comm/groups.h"

namespace plinth::launch {

/// A short continuation of train.sample_prompt by the model as it is, for the log. Models that
/// generate no text give a note. Collective over the ranks that hold one copy of the model.
std::string sample_text(Session& session, const parallel::Groups& groups,
                        core::models::Model& model, const core::data::Tokenizer& tokenizer,
                        const RunConfig& config, int64_t step);

}  // namespace plinth::launch
