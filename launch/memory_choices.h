// SPDX-License-Identifier: Apache-2.0
// What may be changed of a run so that it needs less memory: what memory_settings.h searches.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "launch/config/run_config.h"

namespace plinth::launch {

/// A run as it might be.
struct MemoryChoice {
    RunConfig config;
    int64_t ranks = 1;
};

/// One key, or keys that belong together, at rising strength: the mildest first. Some of what it
/// gives a run may not accept.
using MemoryKnob = std::vector<MemoryChoice> (*)(const MemoryChoice&);

/// Of as many ranks, in the order in which a user would try them: what costs the least first.
std::vector<MemoryKnob> memory_knobs();
/// ZeRO over more ranks.
std::vector<MemoryChoice> more_data_ranks(const MemoryChoice& from);
/// More ranks that share a copy of the model: along the context, tensor and pipeline axis.
std::vector<MemoryKnob> model_rank_knobs();

/// Whether a run would start with it.
bool is_accepted(const MemoryChoice& choice);

/// What differs, as KEY=VALUE with a blank between two.
std::string words_of(const MemoryChoice& from, const MemoryChoice& to);

}  // namespace plinth::launch
