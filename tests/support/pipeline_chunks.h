// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <utility>
#include <vector>

#include "core/models/model.h"
#include "parallel/pipeline_parallel/schedule.h"

namespace plinth::test {

/// The chunks of one stage of a pipeline in which one tensor goes from chunk to chunk: a batch's
/// tokens into the first, and out of the last the loss. `pass(c, x)` is what chunk c makes of x.
inline std::vector<core::models::Chunk> chunks_of_stage(
    const parallel::ScheduleConfig& config, int stage,
    const std::function<core::Tensor(size_t chunk, const core::Tensor& x)>& pass) {
    std::vector<core::models::Chunk> chunks;
    for (int c = 0; c < config.chunks; ++c) {
        const int virtual_stage = config.virtual_stage(stage, c);
        const auto run = [=](const core::Batch& batch, const core::Tensor& x) {
            return pass(static_cast<size_t>(c), virtual_stage == 0 ? batch.tokens : x);
        };
        core::models::Chunk chunk;
        chunk.input_shape = [](const core::Batch& batch) { return batch.tokens.shape(); };
        if (virtual_stage + 1 < config.virtual_stages())
            chunk.forward = run;
        else
            chunk.loss = [run](const core::Batch& batch, const core::Tensor& x) {
                return core::ops::Loss{
                    .sum = run(batch, x), .cross_entropy = {}, .weight = {}, .correct = {}};
            };
        chunks.push_back(std::move(chunk));
    }
    return chunks;
}

}  // namespace plinth::test
