// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <deque>
#include <utility>
#include <vector>

#include "launch/plan.h"
#include "launch/plan_shares.h"
#include "launch/stage_parts.h"
#include "parallel/data_parallel/lanes.h"

namespace plinth::launch {

namespace {

int64_t element_bytes(const RunConfig& config) {
    return config.train.dtype == ComputeType::bf16 ? 2 : 4;
}

/// Blocks of a stage, and the ends of the model that it has.
core::models::Parts sum_of(const std::vector<core::models::Parts>& chunks) {
    core::models::Parts sum;
    for (const core::models::Parts& parts : chunks) {
        sum.blocks += parts.blocks;
        sum.has_embedding = sum.has_embedding || parts.has_embedding;
        sum.has_head = sum.has_head || parts.has_head;
    }
    return sum;
}

/// That a rank sends to its tensor group for a micro-batch.
int64_t tensor_bytes(const RunConfig& config, const core::models::Parts& parts) {
    const int64_t t = config.parallel.tensor, L = parts.blocks, tokens = tokens_of_rank(config);
    // Passes of [B, T, D] through the group: four a block forwards, four backwards, and those of
    // the forward pass that recompute repeats; two each of the table and of the head.
    const int64_t repeated = config.train.recompute == Recompute::full        ? 4 * L
                             : config.train.recompute == Recompute::selective ? 3 * L
                             : config.train.recompute == Recompute::norms     ? 2 * L
                                                                              : 0;
    const int64_t passes =
        8 * L + repeated + 2 * (int64_t{parts.has_embedding} + int64_t{parts.has_head});
    // Maximum, sum and target logit of each token.
    const int64_t rows = parts.has_head ? 3 * 4 * tokens * (t - 1) : 0;
    return passes * tokens * config.model.width * element_bytes(config) / t * (t - 1) + rows;
}

/// That it sends to its context group for a micro-batch: keys and values in each pass, fp32
/// gradients of them in the last.
int64_t context_bytes(const RunConfig& config, const core::models::Parts& parts) {
    const int64_t passes = config.train.recompute == Recompute::full ? 3 : 2;
    return parts.blocks * (config.parallel.context - 1) * tokens_of_rank(config) *
           passed_keys(config) * (passes * element_bytes(config) + 4);
}

/// That it sends in a sum of fp32 over a group of `size`.
int64_t sum_bytes(int64_t elements, int64_t size) {
    return 2 * 4 * elements * (size - 1) / size;
}

/// What the ranks of one stage, at one place of the tensor axis, send.
class StageTraffic {
  public:
    StageTraffic(const RunConfig& config, int64_t ranks, int stage, int tensor_rank)
        : config_(config),
          stage_(stage),
          model_(declared_model(config, stage, tensor_rank)),
          parts_(sum_of(stage_parts(config, stage))),
          lanes_{config.train.global_batch / config.train.micro_batch, config.train.lanes,
                 static_cast<int>(data_ranks(config, ranks))} {
        for (std::vector<core::Parameter*>& parameters : parameters_by_reducer(config, model_))
            reducers_.emplace_back(config, std::move(parameters));
    }

    TrafficPlan of(int rank) const {
        const ParallelSection& p = config_.parallel;
        const auto micro_batches = static_cast<int64_t>(lanes_.slots_of(rank).size());
        const int64_t last = p.pipeline - 1;
        const int64_t cuts = 2 * p.virtual_stages - int64_t{stage_ == 0} - int64_t{stage_ == last};
        TrafficPlan plan;
        plan.activations = micro_batches * cuts * tokens_of_rank(config_) * config_.model.width *
                           element_bytes(config_) / p.tensor;
        int64_t summed = 0, partial = 0;
        for (const Reducer& reducer : reducers_) {
            plan.gradients += to_owners(reducer, rank);
            plan.weights += weights(reducer, rank);
            for (const core::Parameter* parameter : reducer.parameters) {
                plan.gradients += of_tied_table(reducer, *parameter, rank);
                summed += owned(reducer, *parameter, std::max(1, parameter->uses()), rank);
                if (parameter->gradient_is_partial())
                    partial += owned(reducer, *parameter, 1, rank);
            }
        }
        plan.context =
            micro_batches * context_bytes(config_, parts_) + sum_bytes(summed, p.context);
        if (p.tensor > 1)
            plan.tensor =
                micro_batches * tensor_bytes(config_, parts_) + sum_bytes(partial, p.tensor);
        return plan;
    }

  private:
    struct Reducer {
        Reducer(const RunConfig& config, std::vector<core::Parameter*> summed)
            : parameters(std::move(summed)),
              layout(parameters, config.parallel.bucket_bytes),
              bytes(weight_bytes(config, layout)) {
            if (config.parallel.zero == 3)
                gathers = gathered(config, parameters, layout, bytes).times;
        }
        std::vector<core::Parameter*> parameters;
        parallel::BucketLayout layout;
        parallel::WeightLayout bytes;
        std::vector<int64_t> gathers;  ///< of each unit in a micro-batch, with parallel.zero=3
    };

    /// Each lane goes to the owners, but for what this rank owns; without ZeRO the totals of what
    /// it owns go to all.
    int64_t to_owners(const Reducer& reducer, int rank) const {
        const Owned mine = owned_by(reducer.layout, rank, lanes_.ranks);
        int64_t lanes = 0;
        for (int64_t round = 0; round < lanes_.rounds(); ++round)
            lanes += lanes_.lane_of(rank, round).has_value() ? 1 : 0;
        const int64_t wire = config_.parallel.wire_dtype == ComputeType::bf16 ? 2 : 4;
        const int64_t totals =
            config_.parallel.zero == 0 ? 4 * mine.weights * (lanes_.ranks - 1) : 0;
        return lanes * wire * (reducer.layout.elements() - mine.all) + totals;
    }

    /// With parallel.zero=3 for each micro-batch of another rank.
    int64_t weights(const Reducer& reducer, int rank) const {
        const int64_t zero = config_.parallel.zero;
        if (zero == 0) return 0;
        const parallel::BucketLayout& layout = reducer.layout;
        if (zero < 3)
            return (lanes_.ranks - 1) * owned_by(layout, rank, lanes_.ranks, &reducer.bytes).bytes;
        int64_t of_micro_batch = 0;
        for (size_t b = 0; b < layout.buckets(); ++b)
            of_micro_batch += reducer.gathers[layout.unit_of(b)] *
                              reducer.bytes.bytes_of(layout.owned(b, rank, lanes_.ranks));
        return (lanes_.slots - static_cast<int64_t>(lanes_.slots_of(rank).size())) * of_micro_batch;
    }

    /// To the other stage that holds the table.
    int64_t of_tied_table(const Reducer& reducer, const core::Parameter& parameter,
                          int rank) const {
        if (config_.parallel.pipeline == 1 || !config_.model.tied_head ||
            !parameter.name().starts_with("embedding.tokens"))
            return 0;
        return 4 * (config_.parallel.zero > 0 ? owned(reducer, parameter, 1, rank)
                                              : parameter.local_elements());
    }

    /// Elements of the first `uses` uses of a parameter, without padding.
    int64_t owned(const Reducer& reducer, const core::Parameter& parameter, int uses,
                  int rank) const {
        int64_t elements = 0;
        for (int use = 0; use < uses; ++use)
            for (const auto& piece : reducer.layout.owned(parameter, use, rank, lanes_.ranks))
                elements += piece.flat.elements();
        return elements;
    }

    const RunConfig& config_;
    int stage_;
    core::models::Transformer model_;
    core::models::Parts parts_;
    parallel::LanePlan lanes_;
    std::deque<Reducer> reducers_;  // weight layouts refer to their bucket layout
};

void add(TrafficPlan& sum, const TrafficPlan& more) {
    for (int64_t TrafficPlan::*kind :
         {&TrafficPlan::gradients, &TrafficPlan::weights, &TrafficPlan::activations,
          &TrafficPlan::tensor, &TrafficPlan::context})
        sum.*kind += more.*kind;
}

TrafficPlan divided(const TrafficPlan& sum, int64_t by) {
    return {sum.gradients / by, sum.weights / by, sum.activations / by, sum.tensor / by,
            sum.context / by};
}

}  // namespace

TrafficPlan traffic_plan(const RunConfig& config, int64_t ranks, const MeshPlace& place) {
    return StageTraffic(config, ranks, place.stage, place.tensor).of(place.data);
}

TrafficPlan traffic_plan(const RunConfig& config, int64_t ranks, int stage) {
    const StageTraffic traffic(config, ranks, stage, /*tensor_rank=*/0);
    TrafficPlan sum;
    const int64_t data = data_ranks(config, ranks);
    for (int rank = 0; rank < static_cast<int>(data); ++rank)
        add(sum, traffic.of(rank));
    return divided(sum, data);
}

TrafficPlan traffic_plan(const RunConfig& config, int64_t ranks) {
    TrafficPlan sum;
    for (int stage = 0; stage < static_cast<int>(config.parallel.pipeline); ++stage)
        add(sum, traffic_plan(config, ranks, stage));
    return divided(sum, config.parallel.pipeline);
}

}  // namespace plinth::launch
