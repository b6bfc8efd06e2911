// SPDX-License-Identifier: Apache-2.0
#include "launch/device_plan.h"

#include <algorithm>

#include "core/ops/cross_entropy.h"
#include "kernels/device_scratch.h"
#include "launch/build.h"
#include "launch/plan_shares.h"
#include "launch/session.h"

namespace plinth::launch {

PlannedDevice planned_device() {
    if (!has_cuda_device())
        return {.name = "NVIDIA H100 80GB HBM3",
                .capability = 90,
                .memory_bytes = 85'017'755'648,
                .is_assumed = true};
    const DeviceInfo info = cuda_module().info(0);
    return {.name = info.name,
            .capability = info.capability,
            .memory_bytes = static_cast<int64_t>(info.memory_bytes)};
}

int64_t ScratchPlan::total() const {
    return std::max({products, attention, embedding});
}

namespace {

/// Elements of the largest result that a product adds to: a gradient to those of slots before in
/// its lane, or to those of the chunks before of a head.
int64_t added_elements(const RunConfig& config, const std::vector<core::models::Parts>& chunks) {
    const auto has_head = [](const core::models::Parts& parts) { return parts.has_head; };
    int64_t largest = 0;
    if (std::ranges::any_of(chunks, has_head) &&
        (sums_chunks_of_head(config) || adds_slots(config)))
        largest = logit_columns(config) * config.model.width;
    if (!adds_slots(config)) return largest;
    core::models::Transformer model = declared_model(config, chunks);
    for (const core::Parameter* parameter : model.parameters().all())
        if (parameter->shape().rank() == 2 && parameter->name().starts_with("blocks."))
            largest = std::max(largest, parameter->local_elements());
    return largest;
}

}  // namespace

ScratchPlan scratch_plan(const RunConfig& config, const std::vector<core::models::Parts>& chunks,
                         const PlannedDevice& device) {
    const ModelSection& m = config.model;
    const int64_t t = config.parallel.tensor;
    const int64_t length = config.data.sequence_length, ring = config.parallel.context;
    const int64_t tokens = config.train.micro_batch * length / ring;
    const int64_t rows_of_table = vocab_of_rank(config);
    bool has_embedding = false;
    for (const core::models::Parts& parts : chunks)
        has_embedding = has_embedding || parts.has_embedding;
    // In a ring attention goes run by run, of which each rank has two.
    const kernels::AttentionShape shape{.batch = config.train.micro_batch,
                                        .tokens = ring == 1 ? length : length / (2 * ring),
                                        .heads = m.heads / t,
                                        .kv_heads = std::max<int64_t>(1, m.kv_heads / t),
                                        .width = m.head_width,
                                        .scale = 1.0f};
    const bool has_slopes = m.positions == PositionKind::alibi;
    const bool is_cudnn = ring == 1 && !has_slopes && !config.data.document_mask &&
                          kernels::choose_attention(shape, dtype_of(config.train.dtype), {},
                                                    {.heads = shape.heads,
                                                     .kv_heads = shape.kv_heads,
                                                     .dropout = static_cast<float>(m.dropout)},
                                                    /*is_aligned=*/true, device.capability) ==
                              kernels::AttentionImplementation::cudnn;
    ScratchPlan plan;
    plan.products = kernels::matmul_scratch_bytes(added_elements(config, chunks));
    plan.attention =
        kernels::cudnn_attention_scratch_bytes(shape, config.run.reproducible, device.capability);
    if (!is_cudnn || plan.attention > kernels::cudnn_workspace_limit)
        plan.attention = kernels::tiled_attention_scratch_bytes(shape);
    if (has_embedding)
        plan.embedding = kernels::embedding_scratch_bytes(tokens, rows_of_table, m.width);
    return plan;
}

}  // namespace plinth::launch
