// SPDX-License-Identifier: Apache-2.0
#include "launch/plan.h"

#include <algorithm>

#include "core/models/transformer.h"
#include "core/ops/cross_entropy.h"
#include "core/optim/parameter_storage.h"
#include "launch/build.h"
#include "launch/config/load.h"
#include "launch/config/model_size.h"
#include "launch/metrics/model_flops.h"
#include "parallel/data_parallel/buckets.h"
#include "parallel/data_parallel/lanes.h"

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
    const std::vector<core::Parameter*>& parameters = model.parameters().all();
    int64_t stored = 0;
    for (const core::Parameter* parameter : parameters)
        stored += padded(parameter->shape().elements());
    const parallel::BucketLayout buckets(parameters, config.parallel.bucket_bytes);
    MemoryPlan plan;
    plan.weights = stored * 4;
    if (config.train.dtype == ComputeType::bf16) plan.weights += model.parameters().elements() * 2;
    // A lane, and the owned share of the totals, which a single round of lanes keeps in the lane.
    plan.gradients = buckets.elements() * 4;
    if (config.train.lanes > ranks) plan.gradients += buckets.elements() * 4 / ranks;
    plan.optimizer = stored * 8;
    plan.activations = activation_bytes(config);
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
        "# memory a rank       {} (weights {}, gradients {}, optimizer {}, activations {})\n",
        gib(memory.total()), gib(memory.weights), gib(memory.gradients), gib(memory.optimizer),
        gib(memory.activations));
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
