// SPDX-License-Identifier: Apache-2.0
#include "launch/layouts.h"

#include <fmt/format.h>

namespace plinth::launch {

namespace {

std::string name_of(const ParallelSection& parallel) {
    std::string name;
    const auto add = [&](const char* key, int64_t value, int64_t unless) {
        if (value != unless) name += fmt::format("{}{}={}", name.empty() ? "" : " ", key, value);
    };
    add("data", parallel.data, 1);
    add("tensor", parallel.tensor, 1);
    add("pipeline", parallel.pipeline, 1);
    add("context", parallel.context, 1);
    add("zero", parallel.zero, 0);
    return name.empty() ? "one rank" : name;
}

void consider(RunConfig config, int ranks, Layouts& layouts) {
    if (config.parallel.zero >= 2)
        config.train.lanes = config.train.global_batch / config.train.micro_batch;
    auto problem = validate(config);
    if (!problem) problem = validate_world(config, ranks);
    const std::string name = name_of(config.parallel);
    if (problem)
        layouts.refused.push_back({name, problem->key + ": " + problem->message});
    else
        layouts.valid.push_back({std::move(config), ranks, name});
}

}  // namespace

Layout layout_of(const RunConfig& config, int ranks) {
    Layout layout{config, ranks, ""};
    const ParallelSection& parallel = config.parallel;
    layout.config.parallel.data = ranks / (parallel.tensor * parallel.pipeline * parallel.context);
    layout.name = name_of(layout.config.parallel);
    return layout;
}

Layouts all_layouts(const RunConfig& config, const std::vector<int64_t>& worlds) {
    Layouts layouts;
    for (const int64_t world : worlds)
        for (int64_t pipeline = 1; pipeline <= world; ++pipeline)
            for (int64_t context = 1; context <= world / pipeline; ++context)
                for (int64_t tensor = 1; tensor <= world / pipeline / context; ++tensor) {
                    const int64_t others = pipeline * context * tensor;
                    if (world % others != 0) continue;
                    RunConfig candidate = config;
                    candidate.parallel.data = world / others;
                    candidate.parallel.pipeline = pipeline;
                    candidate.parallel.context = context;
                    candidate.parallel.tensor = tensor;
                    // With one data-parallel rank there is nothing to share.
                    const int64_t stages = world / others > 1 ? 3 : 0;
                    for (int64_t zero = 0; zero <= stages; ++zero) {
                        candidate.parallel.zero = zero;
                        consider(candidate, static_cast<int>(world), layouts);
                    }
                }
    return layouts;
}

}  // namespace plinth::launch
