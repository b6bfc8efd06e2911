// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "core/data/sampler.h"

namespace plinth::launch {

/// A sampler's state as JSON text for a checkpoint, and back; `where` names the checkpoint in
/// errors (kind checkpoint).
std::string to_text(const core::data::SamplerState& state);
core::data::SamplerState sampler_state(const std::string& text, const std::string& where);

}  // namespace plinth::launch
