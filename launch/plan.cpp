// SPDX-License-Identifier: Apache-2.0
#include "launch/plan.h"

#include <algorithm>

#include "launch/config/load.h"
#include "launch/config/model_size.h"
#include "launch/device_plan.h"
#include "launch/memory_settings.h"
#include "launch/metrics/model_flops.h"
#include "launch/plan_shares.h"
#include "launch/stage_parts.h"
#include "parallel/data_parallel/lanes.h"

namespace plinth::launch {

namespace {

std::string size_text(int64_t bytes) {
    return memory_size_text(static_cast<size_t>(bytes));
}

/// Empty where nothing is offloaded.
std::string offload_text(const MemoryPlan& memory) {
    std::string text;
    if (memory.offloaded > 0)
        text += fmt::format(", offloaded master weights and moments {}, pinned blocks for them {}",
                            size_text(memory.offloaded), size_text(memory.blocks));
    if (memory.offloaded_activations > 0)
        text += fmt::format(", pinned activations {}", size_text(memory.offloaded_activations));
    return text;
}

std::string memory_text(const MemoryPlan& memory) {
    return fmt::format(
        "# memory a rank       {} (weights {}, gradients {}, optimizer {}, activations {}, "
        "copy for checkpoints {}{})\n",
        size_text(memory.total()), size_text(memory.weights), size_text(memory.gradients),
        size_text(memory.optimizer), size_text(std::max(memory.activations, memory.sums)),
        size_text(memory.staging), offload_text(memory));
}

/// What keys of offload take off the GPU; empty where nothing is offloaded.
std::string saving_text(const RunConfig& config, int64_t ranks, const MemoryPlan& memory) {
    std::vector<std::string> parts;
    const auto add = [&](const char* key, const RunConfig& without) {
        parts.push_back(fmt::format(
            "{} less with {}",
            size_text(memory_plan(without, ranks).computing() - memory.computing()), key));
    };
    RunConfig without = config;
    without.optimizer.offload = OptimizerOffload::none;
    if (memory.offloaded > 0) add("optimizer.offload=states", without);
    without = config;
    without.train.offload_activations = false;
    if (memory.offloaded_activations > 0) add("train.offload_activations=true", without);
    if (parts.empty()) return "";
    return fmt::format("# offload             the GPU holds {}\n", fmt::join(parts, ", "));
}

std::string device_memory_text(const RunConfig& config, int64_t ranks, const MemoryPlan& memory,
                               const PlannedDevice& device) {
    std::string text = fmt::format(
        "# memory a rank       {} of its GPU (weights {}, gradients {}, optimizer {}, activations "
        "{}, scratch {}) and {} of the host (copy for checkpoints {}{})\n",
        size_text(memory.computing()), size_text(memory.weights), size_text(memory.gradients),
        size_text(memory.optimizer), size_text(std::max(memory.activations, memory.sums)),
        size_text(memory.scratch), size_text(memory.on_host()), size_text(memory.staging),
        offload_text(memory));
    text += fmt::format(
        "# GPU                 {}, {}{}; CUDA and its libraries take about {} of it for "
        "themselves (an estimate, not in the sum)\n",
        device.name, size_text(device.memory_bytes),
        device.is_assumed ? " (assumed: there is none on this machine)" : "",
        size_text(device_context_estimate));
    const int64_t limit = device.memory_bytes - device_context_estimate;
    if (const int64_t over = peak_by_plan(config, ranks) - limit; over > 0)
        text += fmt::format("# does not fit        {} too much for a rank alone on that GPU: {}\n",
                            size_text(over), memory_settings_text(config, ranks, limit));
    return text;
}

/// Tokens of all steps of the run; a double, as the longest runs that keys allow have more than 64
/// bits can count.
double total_tokens(const TrainSection& train, int64_t sequence_length) {
    int64_t steps = total_steps(train, sequence_length), consumed = 0;
    // Each stage is crossed in whole steps, see total_steps.
    for (const BatchRampStage& stage : train.batch_ramp) {
        if (consumed >= stage.samples) continue;
        const int64_t batch = global_batch_at(train, consumed);
        const int64_t crossed = std::min(steps, (stage.samples - consumed + batch - 1) / batch);
        steps -= crossed;
        consumed += crossed * batch;
    }
    const auto batch = static_cast<double>(global_batch_at(train, consumed));
    return (static_cast<double>(consumed) + static_cast<double>(steps) * batch) *
           static_cast<double>(sequence_length);
}

/// Where the full batch begins, if a ramp leads there.
std::string ramp_text(const RunConfig& config) {
    const auto& ramp = config.train.batch_ramp;
    if (ramp.empty()) return "";
    return fmt::format(" from sample {} on, {} in the first step", ramp.back().samples,
                       ramp.front().global_batch * config.data.sequence_length);
}

std::string parts_text(const core::models::Parts& parts) {
    std::vector<std::string> texts;
    if (parts.has_embedding) texts.emplace_back("embedding");
    if (parts.blocks > 0)
        texts.push_back(fmt::format("layers {} to {}", parts.first_block,
                                    parts.first_block + parts.blocks - 1));
    if (parts.has_head) texts.emplace_back("head");
    return fmt::format("{}", fmt::join(texts, ", "));
}

/// Schedule, bubble and the stages; empty without a pipeline.
std::string pipeline_text(const RunConfig& config, int64_t ranks) {
    if (config.parallel.pipeline == 1) return "";
    const parallel::ScheduleReport report = schedule_report(config, ranks);
    const auto busy = static_cast<double>(report.stages[0].busy);
    std::string text = fmt::format(
        "# pipeline            {} stages x {} chunks, {} micro-batches each, bubble {:.1f} % of "
        "the computation if the stages are equal\n",
        config.parallel.pipeline, config.parallel.virtual_stages,
        micro_batches_of_rank(config, ranks), 100.0 * static_cast<double>(report.bubble(0)) / busy);
    for (int stage = 0; stage < static_cast<int>(config.parallel.pipeline); ++stage) {
        std::vector<std::string> chunks;
        for (const core::models::Parts& parts : stage_parts(config, stage))
            chunks.push_back(parts_text(parts));
        const MemoryPlan memory = memory_plan(config, ranks, stage);
        text += fmt::format(
            "# stage {:<3}           {}; activations of {} at most, {} in all; a "
            "rank sends {} a step\n",
            stage, fmt::join(chunks, "; "),
            report.stages[static_cast<size_t>(stage)].peak_activations, size_text(memory.total()),
            size_text(traffic_plan(config, ranks, stage).total()));
    }
    return text;
}

}  // namespace

std::vector<size_t> bucket_counts(const RunConfig& config) {
    std::vector<size_t> counts;
    for (int stage = 0; stage < static_cast<int>(config.parallel.pipeline); ++stage) {
        core::models::Transformer model = declared_model(config, stage);
        counts.push_back(0);
        for (const auto& parameters : parameters_by_reducer(config, model))
            counts.back() +=
                parallel::BucketLayout(parameters, config.parallel.bucket_bytes).buckets();
    }
    return counts;
}

std::string plan_text(const RunConfig& config, int64_t ranks) {
    const MemoryPlan memory = memory_plan(config, ranks);
    const int64_t steps = total_steps(config.train, config.data.sequence_length);
    const int64_t slots = config.train.global_batch / config.train.micro_batch;
    const parallel::LanePlan lanes{slots, config.train.lanes,
                                   static_cast<int>(data_ranks(config, ranks))};
    std::string text = to_yaml(config);
    text += fmt::format("\n# parameters          {}\n", parameter_count(config.model));
    text += fmt::format("# ranks               {}\n", ranks);
    text += is_on_gpu(config) ? device_memory_text(config, ranks, memory, planned_device()) +
                                    saving_text(config, ranks, memory)
                              : memory_text(memory);
    if (ranks > 1) {
        const TrafficPlan traffic = traffic_plan(config, ranks);
        text += fmt::format(
            "# sent a step         {} by a rank on average (gradients {}, weights {}, activations "
            "{}, tensor "
            "group {}, context group {})\n",
            size_text(traffic.total()), size_text(traffic.gradients), size_text(traffic.weights),
            size_text(traffic.activations), size_text(traffic.tensor), size_text(traffic.context));
    }
    text += fmt::format("# buckets             {}\n", fmt::join(bucket_counts(config), ", "));
    text += pipeline_text(config, ranks);
    text += fmt::format("# steps               {}\n", steps);
    text += fmt::format("# tokens              {} a step{}, {:.0f} in all\n",
                        config.train.global_batch * config.data.sequence_length, ramp_text(config),
                        total_tokens(config.train, config.data.sequence_length));
    text += fmt::format(
        "# slots, lanes        {} micro-batches in {} lanes, {:.1f} % of rank time idle{}\n", slots,
        config.train.lanes, 100.0 * lanes.idle_share(),
        config.train.batch_ramp.empty() ? "" : ", at the full batch");
    text += fmt::format("# model FLOPs a token {:.4e}\n",
                        training_flops_per_token(config.model, config.data.sequence_length));
    return text;
}

}  // namespace plinth::launch
