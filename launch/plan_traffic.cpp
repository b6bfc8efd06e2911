// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "launch/plan.h"
#include "launch/plan_shares.h"

namespace plinth::launch {

namespace {

int64_t repeated_uses(const parallel::BucketLayout& layout) {
    int64_t elements = 0;
    for (const parallel::BucketLayout::Unit& unit : layout.units())
        if (!unit.holds_weights) elements += unit.range.elements();
    return elements;
}

/// Of gradients and weights, by one data-parallel rank.
TrafficPlan stage_traffic(const RunConfig& config, const std::vector<core::Parameter*>& parameters,
                          int64_t ranks) {
    const parallel::BucketLayout layout(parameters, config.parallel.bucket_bytes);
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
    // For each micro-batch: to the rank that computes it, from all others.
    if (zero == 3)
        plan.weights =
            config.train.lanes * gathered(config, parameters, layout, bytes).all * others / ranks;
    plan.gradients /= ranks;
    plan.weights /= ranks;
    return plan;
}

/// That a rank sends to its tensor group for a micro-batch of the whole model.
int64_t traffic_of_micro_batch(const RunConfig& config) {
    const ModelSection& m = config.model;
    const int64_t t = config.parallel.tensor, L = m.layers;
    const int64_t tokens = tokens_of_rank(config);
    const int64_t element = config.train.dtype == ComputeType::bf16 ? 2 : 4;
    // Passes of [B, T, D] through the group: four a block forwards, four backwards, and those of
    // the forward pass that recompute repeats; two each of the table and of the head.
    const int64_t repeated = config.train.recompute == Recompute::full        ? 4 * L
                             : config.train.recompute == Recompute::selective ? 2 * L
                                                                              : 0;
    const int64_t passes = 8 * L + repeated + 4;
    const int64_t rows = 3 * 4 * tokens * (t - 1);  // maximum, sum and target logit of each token
    return passes * tokens * m.width * element / t * (t - 1) + rows;
}

/// That a rank sends to its context group for a micro-batch of the whole model: keys and values in
/// each pass, fp32 gradients of them in the last.
int64_t context_traffic_of_micro_batch(const RunConfig& config) {
    const int64_t element = config.train.dtype == ComputeType::bf16 ? 2 : 4;
    const int64_t passes = config.train.recompute == Recompute::full ? 3 : 2;
    return config.model.layers * (config.parallel.context - 1) * tokens_of_rank(config) *
           passed_keys(config) * (passes * element + 4);
}

/// For the sum of all gradients over a context group, each use of a parameter by itself.
int64_t gradients_of_context(const RunConfig& config, core::models::Transformer& model) {
    int64_t elements = 0;
    for (const core::Parameter* parameter : model.parameters().all())
        elements += parameter->local_elements() * std::max(1, parameter->uses());
    return 2 * 4 * elements / config.parallel.context * (config.parallel.context - 1);
}

/// That it sends in a step for the sum of the gradients of parameters which all ranks of the group
/// hold.
int64_t partial_gradients_bytes(const RunConfig& config, core::models::Transformer& model) {
    int64_t elements = 0;
    for (const core::Parameter* parameter : model.parameters().all())
        if (parameter->gradient_is_partial()) elements += parameter->local_elements();
    return 2 * 4 * elements / config.parallel.tensor * (config.parallel.tensor - 1);
}

/// Of one activation between stages, or its gradient.
int64_t passed_bytes(const RunConfig& config) {
    const int64_t element = config.train.dtype == ComputeType::bf16 ? 2 : 4;
    return tokens_of_rank(config) * config.model.width * element;
}

}  // namespace

TrafficPlan traffic_plan(const RunConfig& config, int64_t ranks) {
    const int64_t stages = config.parallel.pipeline, data = data_ranks(config, ranks);
    TrafficPlan sum;
    for (int stage = 0; stage < static_cast<int>(stages); ++stage) {
        core::models::Transformer model = declared_model(config, stage);
        sum.tensor += partial_gradients_bytes(config, model) / data;
        sum.context += gradients_of_context(config, model) / data;
        const TrafficPlan more = stage_traffic(config, model.parameters().all(), data);
        sum.gradients += more.gradients;
        sum.weights += more.weights;
    }
    sum.activations = 2 * (stages * config.parallel.virtual_stages - 1) * passed_bytes(config) *
                      (config.train.global_batch / config.train.micro_batch) / data;
    sum.activations /= config.parallel.tensor;
    if (stages > 1 && config.model.tied_head)
        sum.gradients += 2 * vocab_of_rank(config) * config.model.width * 4 /
                         (config.parallel.zero > 0 ? data : 1);
    if (config.parallel.tensor > 1)
        sum.tensor += traffic_of_micro_batch(config) *
                      (config.train.global_batch / config.train.micro_batch) / data;
    sum.context += context_traffic_of_micro_batch(config) *
                   (config.train.global_batch / config.train.micro_batch) / data;
    return {sum.gradients / stages, sum.weights / stages, sum.activations / stages,
            sum.tensor / stages, sum.context / stages};
}

}  // namespace plinth::launch
