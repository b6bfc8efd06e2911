// SPDX-License-Identifier: Apache-2.0
#include "launch/stage_parts.h"

#include "launch/build.h"
#include "launch/metrics/model_flops.h"

namespace plinth::launch {

parallel::PartCosts part_costs(const ModelSection& model, int64_t sequence_length) {
    const double head = 2.0 * static_cast<double>(model.vocab_size * model.width);
    const double blocks = forward_flops_per_token(model, sequence_length) - head;
    return {.embedding = static_cast<double>(model.width),  // rows are read, and positions added
            .blocks = std::vector<double>(static_cast<size_t>(model.layers),
                                          blocks / static_cast<double>(model.layers)),
            .head = head};
}

std::vector<parallel::StageParts> all_stage_parts(const RunConfig& config) {
    const parallel::ScheduleConfig schedule = schedule_config(config.parallel);
    const std::vector<int64_t>& layers = config.parallel.stage_layers;
    if (layers.empty())
        return parallel::balance_stages(part_costs(config.model, config.data.sequence_length),
                                        schedule);
    return parallel::given_stages(std::vector<int>(layers.begin(), layers.end()),
                                  static_cast<int>(config.model.layers), schedule);
}

std::vector<core::models::Parts> stage_parts(const RunConfig& config, int stage) {
    const parallel::ScheduleConfig schedule = schedule_config(config.parallel);
    const std::vector<parallel::StageParts> all = all_stage_parts(config);
    std::vector<core::models::Parts> chunks;
    for (int chunk = 0; chunk < schedule.chunks; ++chunk) {
        const parallel::StageParts& parts =
            all[static_cast<size_t>(schedule.virtual_stage(stage, chunk))];
        chunks.push_back({.first_block = parts.first_block,
                          .blocks = parts.blocks,
                          .has_embedding = parts.has_embedding,
                          .has_head = parts.has_head});
    }
    return chunks;
}

}  // namespace plinth::launch
