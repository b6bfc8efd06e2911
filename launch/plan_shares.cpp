// SPDX-License-Identifier: Apache-2.0
#include "launch/plan_shares.h"

#include <algorithm>
#include <set>
#include <string_view>
#include <utility>

#include "core/models/transformer_plan.h"
#include "core/ops/cross_entropy.h"
#include "launch/build.h"
#include "launch/session.h"
#include "launch/stage_parts.h"
#include "launch/stage_state.h"
#include "parallel/data_parallel/lanes.h"
#include "parallel/tensor_parallel/planned_layout.h"
#include "parallel/zero/weights.h"

namespace plinth::launch {

namespace {

bool is_bias_of(const core::Parameter& bias, const core::Parameter& weight) {
    constexpr std::string_view weight_end = ".weight", bias_end = ".bias";
    const std::string_view name = weight.name();
    return name.ends_with(weight_end) && bias.name().ends_with(bias_end) &&
           bias.name().substr(0, bias.name().size() - bias_end.size()) ==
               name.substr(0, name.size() - weight_end.size());
}

/// Products and norms read their bias before their weight, but not products with 8-bit operands,
/// nor those that give sums of a tensor group, to which a whole bias is added.
void put_biases_first(const RunConfig& config, std::vector<const core::Parameter*>& reads) {
    for (size_t i = 1; i < reads.size(); ++i)
        if (is_bias_of(*reads[i], *reads[i - 1]) &&
            !(is_fp8(config) && reads[i - 1]->takes_fp8()) &&
            (reads[i - 1]->is_whole() || !reads[i]->is_whole()))
            std::swap(reads[i], reads[i - 1]);
}

/// Tables, the head and biases are not, but for those of norms that run again.
bool is_read_backwards(const RunConfig& config, const std::string& name) {
    if (name.starts_with("embedding.tokens") || name.starts_with("embedding.positions") ||
        name.starts_with("head."))
        return false;
    const bool is_norm_again = name.starts_with("blocks.") && name.ends_with("_norm.bias") &&
                               remakes_norms(config.train.recompute);
    return !name.ends_with(".bias") || is_norm_again;
}

/// Of a part's parameters, in reverse, those that its MLP's hidden layer is made again with, in the
/// order in which they were declared.
template <typename Reverse>
std::vector<const core::Parameter*> read_for_hidden(const RunConfig& config, Reverse begin,
                                                    Reverse end) {
    std::vector<const core::Parameter*> reads;
    if (config.train.recompute != Recompute::selective) return reads;
    for (auto one = end; one != begin;) {
        const std::string& name = (*--one)->name();
        if (name.find(".mlp_norm.") != name.npos || name.find(".mlp.up.") != name.npos ||
            name.find(".mlp.gate_up.") != name.npos)
            reads.push_back(*one);
    }
    return reads;
}

/// Units in the order in which a micro-batch of parallel.zero=3 reads their weights, neighbours
/// once: forwards, a tied table in the head too; and backwards.
std::vector<size_t> units_read(const RunConfig& config,
                               const std::vector<core::Parameter*>& parameters,
                               const parallel::BucketLayout& layout) {
    std::vector<const core::Parameter*> reads(parameters.begin(), parameters.end());
    std::erase_if(reads, [](const auto* parameter) { return parameter->uses() == 0; });
    for (const core::Parameter* parameter : parameters)
        if (parameter->uses() > 1) reads.push_back(parameter);
    const auto in_block = [](const core::Parameter* parameter) {
        const std::string& name = parameter->name();
        return name.starts_with("blocks.") ? name.substr(0, name.find('.', 7)) : std::string();
    };
    for (auto end = parameters.rbegin(); end != parameters.rend();) {
        const auto begin = end;
        while (end != parameters.rend() && in_block(*end) == in_block(*begin) &&
               (end == begin || !in_block(*end).empty()))
            ++end;
        if (config.train.recompute == Recompute::full && !in_block(*begin).empty())
            reads.insert(reads.end(), end.base(), begin.base());  // forwards again
        const std::vector<const core::Parameter*> again = read_for_hidden(config, begin, end);
        for (auto one = begin; one != end; ++one) {
            const std::string& name = (*one)->name();
            const bool is_down = name.ends_with(".mlp.down.weight");
            // GELU's hidden layer is read before the second product's weight, SwiGLU's after it.
            const bool before = config.model.activation != Activation::swiglu;
            if (is_down && before) reads.insert(reads.end(), again.begin(), again.end());
            if (is_read_backwards(config, name)) reads.push_back(*one);
            if (is_down && !before) reads.insert(reads.end(), again.begin(), again.end());
        }
    }
    put_biases_first(config, reads);
    std::vector<size_t> units;
    for (const core::Parameter* parameter : reads) {
        const size_t unit = layout.entries()[layout.entry_of(*parameter, 0)].unit;
        if (units.empty() || units.back() != unit) units.push_back(unit);
    }
    return units;
}

}  // namespace

bool is_on_gpu(const RunConfig& config) {
    return device_type_of(config.run.device) == DeviceType::cuda;
}

bool is_fp8(const RunConfig& config) {
    return config.train.fp8 != Fp8Scaling::none;
}

int64_t vocab_of_rank(const RunConfig& config) {
    return parallel::row_share(config.model.vocab_size, 0, static_cast<int>(config.parallel.tensor))
        .count;
}

int64_t logit_columns(const RunConfig& config) {
    const int64_t rows = vocab_of_rank(config), multiple = config.model.vocab_multiple;
    return core::ops::pads_columns_on(device_type_of(config.run.device))
               ? (rows + multiple - 1) / multiple * multiple
               : rows;
}

int64_t data_ranks(const RunConfig& config, int64_t ranks) {
    const ParallelSection& parallel = config.parallel;
    return ranks / (parallel.pipeline * parallel.tensor * parallel.context);
}

int64_t tokens_of_rank(const RunConfig& config) {
    return config.train.micro_batch * config.data.sequence_length / config.parallel.context;
}

int64_t passed_keys(const RunConfig& config) {
    return 2 * config.model.kv_heads * config.model.head_width / config.parallel.tensor;
}

int micro_batches_of_rank(const RunConfig& config, int64_t ranks) {
    const parallel::LanePlan lanes{config.train.global_batch / config.train.micro_batch,
                                   config.train.lanes, static_cast<int>(data_ranks(config, ranks))};
    return static_cast<int>(lanes.aligned_slots_of(0).size());
}

parallel::ScheduleConfig planned_schedule(const RunConfig& config, int64_t ranks) {
    parallel::ScheduleConfig schedule = schedule_config(config.parallel);
    schedule.micro_batches = micro_batches_of_rank(config, ranks);
    return schedule;
}

parallel::ScheduleReport schedule_report(const RunConfig& config, int64_t ranks) {
    return parallel::check_schedule(parallel::make_schedule(planned_schedule(config, ranks)));
}

core::models::Transformer declared_model(const RunConfig& config, int stage, int tensor_rank) {
    return declared_model(config, stage_parts(config, stage), tensor_rank);
}

core::models::Transformer declared_model(const RunConfig& config,
                                         const std::vector<core::models::Parts>& chunks,
                                         int tensor_rank) {
    const core::models::TransformerConfig transformer = transformer_config(config);
    return core::models::Transformer(
        transformer, chunks,
        parallel::PlannedLayout(transformer_plan(transformer), tensor_rank,
                                static_cast<int>(config.parallel.tensor)));
}

bool adds_slots(const RunConfig& config) {
    return config.train.lanes < config.train.global_batch / config.train.micro_batch;
}

bool sums_chunks_of_head(const RunConfig& config) {
    return tokens_of_rank(config) > core::ops::logit_rows_on(device_type_of(config.run.device));
}

std::vector<std::vector<core::Parameter*>> parameters_by_reducer(const RunConfig& config,
                                                                 core::models::Transformer& model) {
    if (config.parallel.pipeline == 1) return {model.parameters().all()};
    const auto is_shared = [&](const core::Parameter& parameter) {
        return config.model.tied_head && parameter.name().starts_with("embedding.tokens");
    };
    std::vector<std::vector<core::Parameter*>> all;
    const std::vector<core::models::Phase> phases = model.phases();
    for (const core::models::Chunk& chunk : phases.front().chunks)
        for (std::vector<core::Parameter*>& part : reducer_parts(chunk, is_shared))
            if (!part.empty()) all.push_back(std::move(part));
    return all;
}

parallel::WeightLayout weight_bytes(const RunConfig& config, const parallel::BucketLayout& layout) {
    return {layout, config.train.dtype == ComputeType::bf16 ? DType::bf16 : DType::f32};
}

Owned owned_by(const parallel::BucketLayout& layout, int rank, int64_t ranks,
               const parallel::WeightLayout* bytes) {
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

Gathered gathered(const RunConfig& config, const std::vector<core::Parameter*>& parameters,
                  const parallel::BucketLayout& layout, const parallel::WeightLayout& bytes) {
    const std::vector<size_t> order = units_read(config, parameters, layout);
    const auto at_once = static_cast<size_t>(parallel::WeightsOptions{}.ahead) + 1;
    Gathered sum{.times = std::vector<int64_t>(layout.units().size(), 0)};
    std::set<size_t> before;
    for (size_t first = 0; first < order.size(); ++first) {
        const size_t end = std::min(order.size(), first + at_once);
        const std::set<size_t> kept(order.begin() + static_cast<std::ptrdiff_t>(first),
                                    order.begin() + static_cast<std::ptrdiff_t>(end));
        int64_t held = 0;
        for (const size_t unit : kept) {
            held += bytes.bytes_of(layout.units()[unit].range);
            if (!before.contains(unit)) ++sum.times[unit];
        }
        sum.at_once = std::max(sum.at_once, held);
        before = kept;
    }
    return sum;
}

}  // namespace plinth::launch
