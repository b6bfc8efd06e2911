// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "launch/config/run_config.h"

namespace plinth::launch {

/// One way to spread a run over ranks: its configuration with the parallel keys set.
struct Layout {
    RunConfig config;
    int ranks = 1;
    std::string name;  ///< "data=2 tensor=2 zero=1"; "one rank" where nothing is divided
};

struct RefusedLayout {
    ParallelSection parallel;
    std::string name;
    std::string reason;  ///< key and message
};

struct Layouts {
    std::vector<Layout> valid;
    std::vector<RefusedLayout> refused;
};

/// In how many layouts an axis is divided, or ZeRO has something to share.
struct AxisCount {
    std::string name;
    int64_t valid = 0;
    int64_t refused = 0;
    std::string reason = {};  ///< of the refused layout with the shortest name
};
/// data, tensor, pipeline, context, zero.
std::vector<AxisCount> count_axes(const Layouts& layouts);

/// The layout that the configuration names, over `ranks` ranks.
Layout layout_of(const RunConfig& config, int ranks);
/// That many stages with a schedule; interleaved has two chunks on each. The model is cut by cost.
ParallelSection with_schedule(ParallelSection parallel, int64_t pipeline,
                              PipelineSchedule schedule);
/// Every product of data, tensor, pipeline and context that fills one of the worlds, with every
/// pipeline schedule (interleaved with two chunks on a stage, and with more where there are layers)
/// and every ZeRO stage where there is something to share; train.lanes is one a micro-batch where
/// ZeRO 2 and 3 need that.
Layouts all_layouts(const RunConfig& config, const std::vector<int64_t>& worlds);

}  // namespace plinth::launch
