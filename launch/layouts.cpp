// SPDX-License-Identifier: Apache-2.0
#include "launch/layouts.h"

#include <fmt/format.h>

namespace plinth::launch {

namespace {

std::string_view name_of(PipelineSchedule schedule) {
    switch (schedule) {
        case PipelineSchedule::gpipe:
            return "gpipe";
        case PipelineSchedule::one_f_one_b:
            return "1f1b";
        case PipelineSchedule::interleaved:
            return "interleaved";
        case PipelineSchedule::zero_bubble:
            break;
    }
    return "zero_bubble";
}

std::string name_of(const ParallelSection& parallel) {
    std::string name;
    const auto add = [&](const char* key, int64_t value, int64_t unless) {
        if (value != unless) name += fmt::format("{}{}={}", name.empty() ? "" : " ", key, value);
    };
    add("data", parallel.data, 1);
    add("tensor", parallel.tensor, 1);
    add("pipeline", parallel.pipeline, 1);
    if (parallel.pipeline > 1) name += fmt::format(" {}", name_of(parallel.schedule));
    add("virtual_stages", parallel.virtual_stages, 1);
    add("context", parallel.context, 1);
    add("zero", parallel.zero, 0);
    return name.empty() ? "one rank" : name;
}

/// With every schedule; interleaved with every number of chunks, two or more, that finds layers.
std::vector<ParallelSection> schedules_of(const ParallelSection& parallel, int64_t pipeline,
                                          int64_t layers) {
    std::vector<ParallelSection> all;
    const auto add = [&](PipelineSchedule schedule) {
        all.push_back(with_schedule(parallel, pipeline, schedule));
    };
    if (pipeline > 1) add(PipelineSchedule::gpipe);
    add(PipelineSchedule::one_f_one_b);
    if (pipeline == 1) return all;
    add(PipelineSchedule::interleaved);
    while (pipeline * (all.back().virtual_stages + 1) <= layers) {
        all.push_back(all.back());
        ++all.back().virtual_stages;
    }
    add(PipelineSchedule::zero_bubble);
    return all;
}

void consider(RunConfig config, int ranks, Layouts& layouts) {
    if (config.parallel.zero >= 2)
        config.train.lanes = config.train.global_batch / config.train.micro_batch;
    auto problem = validate(config);
    if (!problem) problem = validate_world(config, ranks);
    const std::string name = name_of(config.parallel);
    if (problem)
        layouts.refused.push_back({config.parallel, name, problem->key + ": " + problem->message});
    else
        layouts.valid.push_back({std::move(config), ranks, name});
}

}  // namespace

std::vector<AxisCount> count_axes(const Layouts& layouts) {
    std::vector<AxisCount> axes;
    const auto count = [&](const char* name, auto&& divides) {
        AxisCount axis{.name = name};
        for (const Layout& layout : layouts.valid)
            axis.valid += divides(layout.config.parallel) ? 1 : 0;
        const RefusedLayout* shortest = nullptr;
        for (const RefusedLayout& layout : layouts.refused) {
            if (!divides(layout.parallel)) continue;
            ++axis.refused;
            if (!shortest || layout.name.size() < shortest->name.size()) shortest = &layout;
        }
        if (shortest) axis.reason = shortest->reason;
        axes.push_back(std::move(axis));
    };
    count("data", [](const ParallelSection& p) { return p.data > 1; });
    count("tensor", [](const ParallelSection& p) { return p.tensor > 1; });
    count("pipeline", [](const ParallelSection& p) { return p.pipeline > 1; });
    count("context", [](const ParallelSection& p) { return p.context > 1; });
    count("zero", [](const ParallelSection& p) { return p.zero > 0; });
    return axes;
}

Layout layout_of(const RunConfig& config, int ranks) {
    Layout layout{config, ranks, ""};
    const ParallelSection& parallel = config.parallel;
    layout.config.parallel.data = ranks / (parallel.tensor * parallel.pipeline * parallel.context);
    layout.name = name_of(layout.config.parallel);
    return layout;
}

ParallelSection with_schedule(ParallelSection parallel, int64_t pipeline,
                              PipelineSchedule schedule) {
    parallel.pipeline = pipeline;
    parallel.schedule = schedule;
    parallel.virtual_stages = schedule == PipelineSchedule::interleaved ? 2 : 1;
    parallel.stage_layers.clear();
    return parallel;
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
                    candidate.parallel.context = context;
                    candidate.parallel.tensor = tensor;
                    for (const ParallelSection& parallel :
                         schedules_of(candidate.parallel, pipeline, config.model.layers)) {
                        candidate.parallel = parallel;
                        // With one data-parallel rank there is nothing to share.
                        const int64_t stages = world / others > 1 ? 3 : 0;
                        for (int64_t zero = 0; zero <= stages; ++zero) {
                            candidate.parallel.zero = zero;
                            consider(candidate, static_cast<int>(world), layouts);
                        }
                    }
                }
    return layouts;
}

}  // namespace plinth::launch
