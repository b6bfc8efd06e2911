// SPDX-License-Identifier: Apache-2.0
#include "launch/plan.h"

#include <algorithm>

#include "core/models/transformer.h"
#include "core/ops/cross_entropy.h"
#include "core/optim/parameter_storage.h"
#include "launch/build.h"
#include "launch/checkpoint_keeper.h"
#include "launch/config/load.h"
#include "launch/config/model_size.h"
#include "launch/metrics/model_flops.h"
#include "parallel/buckets.h"
#include "parallel/data_parallel/lane_reducer.h"
#include "parallel/data_parallel/lanes.h"
#include "parallel/zero/owned_weights.h"
#include "parallel/zero/weights.h"

namespace plinth::launch {

namespace {

std::string gib(int64_t bytes) {
    return fmt::format("{:.3f} GiB", static_cast<double>(bytes) / (1ll << 30));
}

int64_t padded_vocab(const ModelSection& m) {
    return (m.vocab_size + m.vocab_multiple - 1) / m.vocab_multiple * m.vocab_multiple;
}

/// What the forward pass keeps for the backward pass, and the larger of what the head and the
/// backward pass of the last block need beside it.
int64_t activation_bytes(const RunConfig& config) {
    const ModelSection& m = config.model;
    const int64_t tokens = config.train.micro_batch * config.data.sequence_length;
    const int64_t element = config.train.dtype == ComputeType::bf16 ? 2 : 4;
    const int64_t qkv = (m.heads + 2 * m.kv_heads) * m.head_width;
    const int64_t hidden = m.activation == Activation::swiglu ? 2 * m.ffn_width : m.ffn_width;
    // Elements a token. Of a block's products: two residual sums, qkv (again when
    // normed), attention output, the MLP's hidden layer before its activation function. Remakeable:
    // two norms and the activation function.
    const int64_t products =
                      2 * m.width + (m.qk_norm ? 2 : 1) * qkv + m.heads * m.head_width + hidden,
                  remakeable = 2 * m.width + m.ffn_width;
    int64_t kept = m.layers * (products + remakeable), gradients = 2 * m.width + hidden;
    if (config.train.recompute == Recompute::selective) {
        kept = m.layers * products;
        gradients += m.ffn_width;
    }
    if (config.train.recompute == Recompute::full)
        kept = m.layers * m.width + products + remakeable;
    const int64_t head =
        tokens * 3 * m.width + std::min(tokens, core::ops::logit_rows) * padded_vocab(m);
    return element * (tokens * kept + std::max(head, tokens * gradients));
}

/// Parameters and moments begin on block boundaries.
int64_t padded(int64_t elements) {
    constexpr int64_t block = core::optim::FlatTensors::alignment;
    return (elements + block - 1) / block * block;
}

parallel::WeightLayout weight_bytes(const RunConfig& config, const parallel::BucketLayout& layout) {
    return {layout, config.train.dtype == ComputeType::bf16 ? DType::bf16 : DType::f32};
}

struct Owned {
    int64_t all = 0;      ///< elements, padding included
    int64_t weights = 0;  ///< of those in units that hold weights
    int64_t bytes = 0;    ///< of these weights as operations read them
};

Owned owned_by(const parallel::BucketLayout& layout, int rank, int64_t ranks,
               const parallel::WeightLayout* bytes = nullptr) {
    Owned owned;
    for (size_t b = 0; b < layout.buckets(); ++b) {
        const parallel::FlatRange range = layout.owned(b, rank, static_cast<int>(ranks));
        owned.all += range.elements();
        if (!layout.units()[layout.unit_of(b)].holds_weights) continue;
        owned.weights += range.elements();
        if (bytes) owned.bytes += bytes->bytes_of(range);
    }
    return owned;
}

int64_t repeated_uses(const parallel::BucketLayout& layout) {
    int64_t elements = 0;
    for (const parallel::BucketLayout::Unit& unit : layout.units())
        if (!unit.holds_weights) elements += unit.range.elements();
    return elements;
}

/// Of the units that parallel.zero=3 has gathered at once: the one that is read and those ahead.
int64_t gathered_bytes(const parallel::BucketLayout& layout, const parallel::WeightLayout& bytes) {
    const int64_t at_once = parallel::WeightsOptions{}.ahead + 1;
    int64_t most = 0;
    const auto& units = layout.units();
    for (size_t first = 0; first < units.size(); ++first) {
        int64_t sum = 0;
        for (size_t u = first; u < units.size() && u < first + static_cast<size_t>(at_once); ++u)
            sum += bytes.bytes_of(units[u].range);
        most = std::max(most, sum);
    }
    return most;
}

/// All but the activations, on one data-parallel rank.
MemoryPlan state_memory(const RunConfig& config, const std::vector<core::Parameter*>& parameters,
                        int rank, int64_t ranks) {
    const parallel::BucketLayout layout(parameters, config.parallel.bucket_bytes);
    const parallel::WeightLayout bytes = weight_bytes(config, layout);
    const Owned owned = owned_by(layout, rank, ranks, &bytes);
    const int64_t zero = config.parallel.zero;
    int64_t stored = 0, largest = 0, largest_unit = 0, read_as_bf16 = 0;
    for (const core::Parameter* parameter : parameters) {
        stored += padded(parameter->local_elements());
        largest = std::max(largest, parameter->local_elements());
        if (parameter->read_as(bytes.compute()) == DType::bf16)
            read_as_bf16 += parameter->local_elements();
    }
    for (const parallel::BucketLayout::Unit& unit : layout.units())
        largest_unit = std::max(largest_unit, unit.range.elements());
    MemoryPlan plan;
    // Masters, and what is read where that is not the same.
    const int64_t wide = (4 * owned.weights - owned.bytes) / 2 * 4;
    plan.weights = zero == 0 ? stored * 4 + read_as_bf16 * 2 : bytes.bytes() + wide;
    if (zero == 3) plan.weights = owned.bytes + wide + gathered_bytes(layout, bytes);
    // A lane, or of it the unit that is filled and those whose buckets are under way; what arrives
    // from the other ranks; what the rank owns of the totals, which a single round of lanes keeps
    // in the lane; and the product of a slot that is not a lane's first.
    const int64_t slots = config.train.global_batch / config.train.micro_batch;
    const int64_t under_way =
        std::min(parallel::LaneReducerConfig{}.in_flight * config.parallel.bucket_bytes / 4,
                 layout.elements());
    plan.gradients = 4 * (zero < 2 ? layout.elements() : owned.all + largest_unit);
    if (ranks > 1) plan.gradients += 4 * (under_way * (ranks - 1) / ranks);
    if (ranks > 1 && zero >= 2) plan.gradients += 4 * under_way;
    if (zero < 2 && config.train.lanes > ranks) plan.gradients += 4 * owned.all;
    if (config.train.lanes < slots) plan.gradients += 4 * largest;
    plan.optimizer = 8 * (zero == 0 ? stored : owned.weights);
    return plan;
}

/// Where the full batch begins, if a ramp leads there.
std::string ramp_text(const RunConfig& config) {
    const auto& ramp = config.train.batch_ramp;
    if (ramp.empty()) return "";
    return fmt::format(" from sample {} on, {} in the first step", ramp.back().samples,
                       ramp.front().global_batch * config.data.sequence_length);
}

}  // namespace

MemoryPlan memory_plan(const RunConfig& config, int64_t ranks) {
    core::models::Transformer model(transformer_config(config));  // declared: no storage
    MemoryPlan plan;
    for (int rank = 0; rank < ranks; ++rank) {
        const MemoryPlan each = state_memory(config, model.parameters().all(), rank, ranks);
        if (each.total() > plan.total()) plan = each;
    }
    // A copy of weights and moments, of which each rank writes its share.
    if (saves_beside_training(config.checkpoint))
        plan.staging = model.parameters().elements() * 12 / ranks;
    plan.activations = activation_bytes(config);
    return plan;
}

TrafficPlan traffic_plan(const RunConfig& config, int64_t ranks) {
    core::models::Transformer model(transformer_config(config));
    const parallel::BucketLayout layout(model.parameters().all(), config.parallel.bucket_bytes);
    const auto bytes = weight_bytes(config, layout);
    const int64_t wire = config.parallel.wire_dtype == ComputeType::bf16 ? 2 : 4;
    // Each lane goes to the owners, all but the part of the rank that computed it.
    TrafficPlan plan;
    for (int64_t lane = 0; lane < config.train.lanes; ++lane)
        plan.gradients +=
            (layout.elements() - owned_by(layout, static_cast<int>(lane % ranks), ranks).all) *
            wire;
    const int64_t others = ranks - 1, zero = config.parallel.zero;
    if (zero == 0) plan.gradients += others * (layout.elements() - repeated_uses(layout)) * 4;
    if (zero == 1 || zero == 2) plan.weights = others * bytes.bytes();
    // Forward and backward pass of each micro-batch: to ranks that compute one, from all others.
    if (zero == 3) plan.weights = 2 * config.train.lanes * bytes.bytes() * others / ranks;
    plan.gradients /= ranks;
    plan.weights /= ranks;
    return plan;
}

std::string plan_text(const RunConfig& config, int64_t ranks) {
    const MemoryPlan memory = memory_plan(config, ranks);
    const int64_t steps = total_steps(config.train, config.data.sequence_length);
    const int64_t slots = config.train.global_batch / config.train.micro_batch;
    const parallel::LanePlan lanes{slots, config.train.lanes, static_cast<int>(ranks)};
    std::string text = to_yaml(config);
    text += fmt::format("\n# parameters          {}\n", parameter_count(config.model));
    text += fmt::format("# ranks               {}\n", ranks);
    text += fmt::format(
        "# memory a rank       {} (weights {}, gradients {}, optimizer {}, activations {}, "
        "copy for checkpoints {})\n",
        gib(memory.total()), gib(memory.weights), gib(memory.gradients), gib(memory.optimizer),
        gib(memory.activations), gib(memory.staging));
    if (ranks > 1) {
        const TrafficPlan traffic = traffic_plan(config, ranks);
        text += fmt::format("# sent a step         {} by a rank (gradients {}, weights {})\n",
                            gib(traffic.gradients + traffic.weights), gib(traffic.gradients),
                            gib(traffic.weights));
    }
    text += fmt::format("# steps               {}\n", steps);
    text += fmt::format("# tokens              {} a step{}\n",
                        config.train.global_batch * config.data.sequence_length, ramp_text(config));
    text += fmt::format(
        "# slots, lanes        {} micro-batches in {} lanes, {:.1f} % of rank time idle{}\n", slots,
        config.train.lanes, 100.0 * lanes.idle_share(),
        config.train.batch_ramp.empty() ? "" : ", at the full batch");
    text += fmt::format("# model FLOPs a token {:.4e}\n",
                        training_flops_per_token(config.model, config.data.sequence_length));
    return text;
}

}  // namespace plinth::launch
