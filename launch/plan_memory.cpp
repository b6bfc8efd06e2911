// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "core/optim/offload.h"
#include "core/optim/parameter_storage.h"
#include "launch/checkpoint_keeper.h"
#include "launch/device_plan.h"
#include "launch/plan.h"
#include "launch/plan_activations.h"
#include "launch/plan_shares.h"
#include "launch/stage_parts.h"
#include "parallel/collective_ops/sum_gradients.h"
#include "parallel/data_parallel/lane_reducer.h"
#include "parallel/data_parallel/lanes.h"

namespace plinth::launch {

namespace {

/// Parameters and moments begin on block boundaries.
int64_t padded(int64_t elements) {
    constexpr int64_t block = core::optim::FlatTensors::alignment;
    return (elements + block - 1) / block * block;
}

/// The most that exchanges of gradients under way need at once: what arrives, what leaves in
/// another dtype, and with parallel.zero 2 and 3 the units on their way and the one that is filled.
int64_t passing_gradients(const RunConfig& config, const parallel::BucketLayout& layout, int rank,
                          int64_t ranks) {
    const parallel::LanePlan lanes{config.train.global_batch / config.train.micro_batch,
                                   config.train.lanes, static_cast<int>(ranks)};
    const size_t count = layout.buckets();
    const auto limit = static_cast<size_t>(parallel::LaneReducerConfig{}.in_flight);
    const size_t at_once = config.parallel.pipeline > 1 ? count : std::min(limit, count);
    const bool is_narrow = config.parallel.wire_dtype == ComputeType::bf16;
    const int64_t wire = is_narrow ? 2 : 4;
    // Exchanges start bucket by bucket, round by round. A rank without a lane only receives.
    const auto sends = [&](size_t exchange) {
        return lanes.lane_of(rank, static_cast<int64_t>(exchange / count)).has_value();
    };
    const auto arrives = [&](size_t exchange) {
        const int64_t senders = lanes.lanes_in(static_cast<int64_t>(exchange / count)) -
                                static_cast<int>(sends(exchange));
        return senders * layout.owned(exchange % count, rank, static_cast<int>(ranks)).elements();
    };
    const auto exchanged = [&](size_t exchange) {
        const int64_t leaves =
            is_narrow && sends(exchange) ? layout.bucket(exchange % count).elements() : 0;
        return wire * (arrives(exchange) + leaves);
    };
    std::vector<int> held(layout.units().size());  // buckets on their way from here, by unit
    int64_t most = 0, bytes = 0;
    const auto unit_bytes = [&](size_t unit) {
        return config.parallel.zero >= 2 ? 4 * layout.units()[unit].range.elements() : 0;
    };
    const auto complete = [&](size_t exchange) {
        most = std::max(most, bytes + (is_narrow ? 4 * arrives(exchange) : 0));  // widened
        bytes -= exchanged(exchange);
        if (!sends(exchange)) return;
        const size_t unit = layout.unit_of(exchange % count);
        if (--held[unit] == 0) bytes -= unit_bytes(unit);
    };
    const size_t all = static_cast<size_t>(std::min<int64_t>(2, lanes.rounds())) * count;
    size_t completed = 0;
    for (size_t started = 0; started < all; ++started) {
        if (sends(started)) {
            const size_t filled = layout.unit_of(started % count);
            if (held[filled]++ == 0) bytes += unit_bytes(filled);
        }
        most = std::max(most, bytes);
        while (completed + at_once <= started)
            complete(completed++);
        bytes += exchanged(started);
        most = std::max(most, bytes);
        if (ranks == 1) complete(completed++);  // without waiting
    }
    while (completed < all)
        complete(completed++);
    return most;
}

/// Of weights in 8 bits: in both layouts, or with parallel.zero=3 one at a time.
int64_t fp8_weight_bytes(const RunConfig& config, const std::vector<core::Parameter*>& parameters) {
    if (!is_fp8(config)) return 0;
    int64_t all = 0, largest = 0;
    for (const core::Parameter* parameter : parameters) {
        if (!parameter->takes_fp8()) continue;
        all += parameter->local_elements();
        largest = std::max(largest, parameter->local_elements());
    }
    return config.parallel.zero == 3 ? largest : 2 * all;
}

/// All but the activations, on one data-parallel rank.
MemoryPlan state_memory(const RunConfig& config, const std::vector<core::Parameter*>& parameters,
                        const parallel::BucketLayout& layout, const parallel::WeightLayout& bytes,
                        int rank, int64_t ranks) {
    const Owned owned = owned_by(layout, rank, ranks, &bytes);
    const int64_t zero = config.parallel.zero;
    int64_t moments = 0, masters = 0, read_as_bf16 = 0;
    for (const core::Parameter* parameter : parameters) {
        const int64_t with_room = parameter->padded_shape().elements();
        moments += padded(parameter->local_elements());
        masters += padded(with_room);
        if (parameter->read_as(bytes.compute()) == DType::bf16) read_as_bf16 += with_room;
    }
    MemoryPlan plan;
    // Masters, and what is read where that is not the same: all of it beside offloaded masters.
    const bool offloads = config.optimizer.offload == OptimizerOffload::states;
    const int64_t wide = offloads ? 0 : (4 * owned.weights - owned.bytes) / 2 * 4;
    plan.weights = zero == 0 && !offloads ? masters * 4 + read_as_bf16 * 2 : bytes.bytes() + wide;
    if (zero == 3)
        plan.weights = owned.bytes + wide + gathered(config, parameters, layout, bytes).at_once;
    plan.weights += fp8_weight_bytes(config, parameters);
    // A lane, if it is kept; what passes; and what the rank owns of the totals, which a single
    // round of lanes keeps in the lane. What is finished apart: finished_bytes.
    plan.gradients = passing_gradients(config, layout, rank, ranks);
    if (zero < 2) plan.gradients += 4 * layout.elements();
    if (zero >= 2 || config.train.lanes > ranks) plan.gradients += 4 * owned.all;
    const int64_t updated = zero == 0 ? moments : owned.weights;
    plan.optimizer = moment_bytes(config.optimizer) * updated;
    if (offloads) {
        plan.offloaded = saved_bytes(config.optimizer) * updated;
        plan.optimizer = 0;
        plan.blocks = core::optim::Offload::default_block_bytes;
    }
    return plan;
}

/// Of gradients that slots which are not a lane's first finish before they are added, of each
/// reducer of a stage (StageState): of vectors, and of a head that is a sum over chunks. Other
/// products and embeddings add by themselves (LaneReducer::accumulate).
int64_t finished_bytes(const RunConfig& config, core::models::Transformer& model) {
    if (!adds_slots(config)) return 0;
    std::vector<const core::Parameter*> heads;
    const std::vector<core::models::Phase> phases = model.phases();
    if (sums_chunks_of_head(config))
        for (const core::models::Chunk& chunk : phases.front().chunks)
            heads.insert(heads.end(), chunk.forward_parameters.begin(),
                         chunk.forward_parameters.end());
    int64_t sum = 0;
    for (const std::vector<core::Parameter*>& parameters : parameters_by_reducer(config, model)) {
        int64_t largest = 0;
        for (const core::Parameter* parameter : parameters)
            if (parameter->shape().rank() == 1 || std::ranges::count(heads, parameter) > 0)
                largest = std::max(largest, parameter->padded_shape().elements());
        sum += largest;
    }
    return 4 * sum;
}

/// Of the sums of what a rank owns of the gradients over its tensor and context groups.
int64_t sum_bytes(const RunConfig& config, const std::vector<core::Parameter*>& parameters,
                  int64_t ranks) {
    int64_t all = 0, partial = 0;
    for (const core::Parameter* parameter : parameters) {
        all += parameter->local_elements() * std::max(1, parameter->uses());
        if (parameter->gradient_is_partial()) partial += parameter->local_elements();
    }
    const int64_t summed = config.parallel.context > 1  ? all
                           : config.parallel.tensor > 1 ? partial
                                                        : 0;
    return 2 * std::min(parallel::bytes_summed_at_once, 4 * summed / ranks);
}

}  // namespace

MemoryPlan memory_plan(const RunConfig& config, int64_t ranks, int stage,
                       const PlanProgress& progress) {
    const std::vector<core::models::Parts> chunks = stage_parts(config, stage);
    core::models::Transformer model = declared_model(config, stage);
    const int64_t data = data_ranks(config, ranks);
    const parallel::BucketLayout layout(model.parameters().all(), config.parallel.bucket_bytes);
    const parallel::WeightLayout bytes = weight_bytes(config, layout);
    MemoryPlan plan;
    for (int rank = 0; rank < data; ++rank) {
        if (progress) progress();
        const MemoryPlan each =
            state_memory(config, model.parameters().all(), layout, bytes, rank, data);
        if (each.total() > plan.total()) plan = each;
    }
    plan.gradients += finished_bytes(config, model);
    // A copy of weights and moments, of which each rank that holds them writes its share.
    if (saves_beside_training(config.checkpoint))
        for (const core::Parameter* parameter : model.parameters().all())
            plan.staging += parameter->local_elements() * saved_bytes(config.optimizer) /
                            (data * config.parallel.context *
                             (parameter->gradient_is_partial() ? config.parallel.tensor : 1));
    plan.sums = sum_bytes(config, model.parameters().all(), data);
    const auto order = parallel::compute_order(planned_schedule(config, ranks), stage);
    plan.activations = activation_bytes(config, chunks, stage, order);
    plan.offloaded_activations = offloaded_activation_bytes(config, chunks, stage, order);
    if (is_on_gpu(config)) plan.scratch = scratch_plan(config, chunks, planned_device()).total();
    return plan;
}

MemoryPlan memory_plan(const RunConfig& config, int64_t ranks) {
    MemoryPlan largest;
    for (int stage = 0; stage < static_cast<int>(config.parallel.pipeline); ++stage) {
        const MemoryPlan plan = memory_plan(config, ranks, stage);
        if (plan.total() > largest.total()) largest = plan;
    }
    return largest;
}

}  // namespace plinth::launch
