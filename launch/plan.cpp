// SPDX-License-Identifier: Apache-2.0
#include "launch/plan.h"

#include <algorithm>
#include <set>

#include "core/models/transformer.h"
#include "core/models/transformer_plan.h"
#include "core/ops/cross_entropy.h"
#include "core/optim/parameter_storage.h"
#include "launch/build.h"
#include "launch/checkpoint_keeper.h"
#include "launch/config/load.h"
#include "launch/config/model_size.h"
#include "launch/device_plan.h"
#include "launch/metrics/model_flops.h"
#include "launch/stage_parts.h"
#include "parallel/buckets.h"
#include "parallel/collective_ops/sum_gradients.h"
#include "parallel/data_parallel/lane_reducer.h"
#include "parallel/data_parallel/lanes.h"
#include "parallel/pipeline_parallel/check.h"
#include "parallel/tensor_parallel/planned_layout.h"
#include "parallel/zero/owned_weights.h"
#include "parallel/zero/weights.h"

namespace plinth::launch {

namespace {

std::string gib(int64_t bytes) {
    return fmt::format("{:.3f} GiB", static_cast<double>(bytes) / (1ll << 30));
}

bool is_on_gpu(const RunConfig& config) {
    return device_type_of(config.run.device) == DeviceType::cuda;
}

int64_t padded_vocab(const ModelSection& m) {
    return (m.vocab_size + m.vocab_multiple - 1) / m.vocab_multiple * m.vocab_multiple;
}

/// Of the token table, on the tensor rank that holds most.
int64_t vocab_of_rank(const RunConfig& config) {
    return parallel::row_share(padded_vocab(config.model), 0,
                               static_cast<int>(config.parallel.tensor))
        .count;
}

int64_t data_ranks(const RunConfig& config, int64_t ranks) {
    const ParallelSection& parallel = config.parallel;
    return ranks / (parallel.pipeline * parallel.tensor * parallel.context);
}

/// Of a micro-batch, on one rank of a context group.
int64_t tokens_of_rank(const RunConfig& config) {
    return config.train.micro_batch * config.data.sequence_length / config.parallel.context;
}

/// Micro-batches of one rank in a step, gaps included.
int micro_batches_of_rank(const RunConfig& config, int64_t ranks) {
    const parallel::LanePlan lanes{config.train.global_batch / config.train.micro_batch,
                                   config.train.lanes, static_cast<int>(data_ranks(config, ranks))};
    return static_cast<int>(lanes.aligned_slots_of(0).size());
}

parallel::ScheduleReport schedule_report(const RunConfig& config, int64_t ranks) {
    parallel::ScheduleConfig schedule = schedule_config(config.parallel);
    schedule.micro_batches = micro_batches_of_rank(config, ranks);
    return parallel::check_schedule(parallel::make_schedule(schedule));
}

/// The parts of one stage as a rank of a tensor group declares them: no storage.
core::models::Transformer declared_model(const RunConfig& config, int stage) {
    const core::models::TransformerConfig transformer = transformer_config(config);
    return core::models::Transformer(
        transformer, stage_parts(config, stage),
        parallel::PlannedLayout(transformer_plan(transformer), /*rank=*/0,
                                static_cast<int>(config.parallel.tensor)));
}

/// Elements a token in which a sum over a tensor group is folded: fp32, in bf16 beside a summand
/// and the result.
int64_t folding(const RunConfig& config) {
    const int64_t share = config.model.width / config.parallel.tensor;
    return config.train.dtype == ComputeType::bf16 ? 5 * share : share;
}

/// Elements a token that the passes of a block need at once beside what is kept.
int64_t passing_through_block(const RunConfig& config) {
    const ModelSection& m = config.model;
    const int64_t t = config.parallel.tensor, share = m.width / t;
    const int64_t hidden = m.activation == Activation::swiglu ? 2 * m.ffn_width : m.ffn_width;
    const int64_t remade = config.train.recompute == Recompute::selective ? m.ffn_width : 0;
    // The MLP with GELU is one op, whose weight half makes its hidden layer again beside the
    // gradients of that layer's input, of its own input and of its output.
    const bool is_one_op = m.activation != Activation::swiglu && remade > 0;
    if (t == 1) return (is_one_op ? 3 : 2) * m.width + hidden + remade;
    // A sum over the ranks: what is sent, in the order of the tokens and in that of the ranks, what
    // is received, and the result in fp32.
    if (is_one_op)
        return std::max(3 * m.width + std::max(remade / t, folding(config)),
                        2 * m.width + (hidden + remade) / t) +
               2 * share;
    // In the forward pass the output of the activation function is still there; backwards it is
    // made again beside its gradient.
    return std::max({3 * m.width + remade / t + 2 * share + folding(config),
                     m.width + (m.ffn_width + remade) / t + 2 * share,
                     (hidden + remade) / t + 3 * share});
}

/// Elements a token of the keys and values that go round a context group.
int64_t passed_keys(const RunConfig& config) {
    return 2 * config.model.kv_heads * config.model.head_width / config.parallel.tensor;
}

/// The same for the backward pass of attention in a context group, beside what the block has kept:
/// fp32 gradients of qkv, keys and values at hand and on their way, and three sums of their
/// gradients, of which one is made while one leaves and one comes. What the MLP kept is free then.
int64_t ring_elements(const RunConfig& config) {
    const int64_t c = config.parallel.context, t = config.parallel.tensor;
    if (c == 1) return 0;
    const ModelSection& m = config.model;
    const int64_t wide = config.train.dtype == ComputeType::bf16 ? 2 : 1;
    const int64_t heads = m.heads * m.head_width / t, keys = passed_keys(config);
    const int64_t sums = c == 2 ? 2 : 3, at_hand = c > 3 ? 2 : 1;
    const int64_t hidden = m.activation == Activation::swiglu ? 2 * m.ffn_width : m.ffn_width;
    const int64_t remakeable =
        config.train.recompute == Recompute::selective ? 0 : m.width + m.ffn_width / t;
    const int64_t freed = (m.width + hidden) / t + remakeable;
    return m.width / t + heads + wide * (heads + keys) +
           std::max(at_hand * keys + sums * wide * keys, heads + keys + wide * keys) - freed;
}

/// Beside what is kept, for the head.
int64_t head_elements(const RunConfig& config) {
    const ModelSection& m = config.model;
    const int64_t t = config.parallel.tensor;
    const int64_t tokens = tokens_of_rank(config);
    const int64_t logits =
        std::min(tokens, core::ops::logit_rows_on(device_type_of(config.run.device))) *
        vocab_of_rank(config);
    if (t == 1) return tokens * 3 * m.width + logits;
    return std::max(tokens * (2 * m.width + 3 * m.width / t) + logits,
                    tokens * (3 * m.width + 2 * m.width / t + folding(config)));
}

/// Of the activations of one micro-batch, elements a token.
struct ActivationSizes {
    int64_t kept_for_weights = 0;   ///< from the input half to a weight half that is put off
    int64_t kept_by_block = 0;      ///< from the forward to the backward pass
    int64_t while_in_backward = 0;  ///< beside them, in the backward pass of one block
    int64_t block_at_work = 0;      ///< when the block runs again
};

ActivationSizes activation_sizes(const RunConfig& config) {
    const ModelSection& m = config.model;
    const int64_t qkv = (m.heads + 2 * m.kv_heads) * m.head_width;
    const int64_t hidden = m.activation == Activation::swiglu ? 2 * m.ffn_width : m.ffn_width;
    // Of a block's products: two residual sums, qkv (again when normed), attention output, the
    // MLP's hidden layer before its activation function. Remakeable: two norms and the activation
    // function. A rank of a tensor group has its share of all that, but for the inputs of the
    // products before attention and in the MLP, of which it gathers the whole.
    const int64_t t = config.parallel.tensor;
    // In fp32: the log of each head's sum of exponentials, mean and deviation of each norm's rows.
    const int64_t wide = config.train.dtype == ComputeType::bf16 ? 2 : 1;
    const int64_t statistics = wide * (m.heads + 2 * (m.norm == NormKind::rms ? 1 : 2));
    const int64_t products = (2 * m.width + (m.qk_norm ? 2 : 1) * qkv + m.heads * m.head_width +
                              hidden + statistics) /
                             t,
                  remakeable = 2 * m.width + m.ffn_width / t;
    const int64_t passing = std::max(passing_through_block(config), ring_elements(config));
    // The inputs of the products and the gradients of their outputs. What the activation function
    // makes again comes from its input.
    const bool remakes = config.train.recompute == Recompute::selective;
    const int64_t halves = (4 * m.width + m.heads * m.head_width + (m.qk_norm ? 2 : 1) * qkv +
                            hidden + (remakes ? hidden : m.ffn_width)) /
                           t;
    switch (config.train.recompute) {
        case Recompute::selective:
            return {halves, products, passing, 0};
        case Recompute::full:
            // Its input is kept already, and what it gives nobody reads.
            return {halves, m.width / t, passing, products + remakeable - m.width / t};
        case Recompute::none:
            break;
    }
    return {halves, products + remakeable, passing, 0};
}

/// What the forward passes keep for the backward passes, and the larger of what the head and the
/// backward pass of the last block, which may run again, need beside it. `alive` micro-batches are
/// under way, spread over the chunks; stage s of zero_bubble puts off the weight halves of s of
/// them, and is in the input half of one more.
int64_t activation_bytes(const RunConfig& config, const std::vector<core::models::Parts>& chunks,
                         int stage, int alive) {
    const ModelSection& m = config.model;
    const int64_t tokens = tokens_of_rank(config), share = m.width / config.parallel.tensor;
    const int64_t element = config.train.dtype == ComputeType::bf16 ? 2 : 4;
    const ActivationSizes sizes = activation_sizes(config);
    const bool is_split =
        config.parallel.pipeline > 1 && config.parallel.schedule == PipelineSchedule::zero_bubble;
    const int64_t put_off = is_split ? std::min(stage + 1, alive) : 0;
    // Of a micro-batch: before its backward pass, in that of the last block, and after its input
    // half.
    int64_t kept = 0, in_backward = 0, waiting = 0, of_head = 0;
    bool has_head = false;
    for (const core::models::Parts& parts : chunks) {
        int64_t of_chunk = parts.blocks * sizes.kept_by_block;
        if (!parts.has_embedding) of_chunk += share;  // its input
        kept += of_chunk;
        // The last block's output has been used.
        in_backward += of_chunk - (parts.has_head && !parts.has_embedding ? share : 0);
        waiting = std::max(waiting, parts.blocks * sizes.kept_for_weights);
        if (parts.has_head) of_head = m.width;  // the gradient that it has made already
        has_head = has_head || parts.has_head;
    }
    const auto count = static_cast<int64_t>(chunks.size());
    if (is_split && waiting > 0)  // all blocks but one wait for their weight halves
        in_backward = count * (waiting - sizes.kept_for_weights + sizes.kept_by_block);
    // The next micro-batch's input is on its way meanwhile.
    if (stage > 0 && config.parallel.schedule != PipelineSchedule::gpipe)
        in_backward += count * share;
    const int64_t whole = (kept + of_head) / count;
    const int64_t others =
        put_off > 0 ? (alive - put_off) * whole + (put_off - 1) * waiting : (alive - 1) * whole;
    const int64_t head = has_head ? head_elements(config) : 0;
    return element *
           (tokens * others + std::max(tokens * (kept / count) + head,
                                       tokens * (in_backward / count + sizes.block_at_work +
                                                 sizes.while_in_backward)));
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

/// Units in the order in which a micro-batch of parallel.zero=3 reads their weights, neighbours
/// once: forwards, a tied table in the head too; backwards, where tables and biases are not read.
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
        for (auto one = begin; one != end; ++one) {
            const std::string& name = (*one)->name();
            if (!name.ends_with(".bias") && !name.starts_with("embedding.tokens") &&
                !name.starts_with("embedding.positions") && !name.starts_with("head."))
                reads.push_back(*one);
        }
    }
    std::vector<size_t> units;
    for (const core::Parameter* parameter : reads) {
        const size_t unit = layout.entries()[layout.entry_of(*parameter, 0)].unit;
        if (units.empty() || units.back() != unit) units.push_back(unit);
    }
    return units;
}

/// Bytes of units that parallel.zero=3 gathers in a micro-batch: the one that is read and those
/// ahead have memory.
struct Gathered {
    int64_t all = 0;
    int64_t at_once = 0;
};

Gathered gathered(const RunConfig& config, const std::vector<core::Parameter*>& parameters,
                  const parallel::BucketLayout& layout, const parallel::WeightLayout& bytes) {
    const std::vector<size_t> order = units_read(config, parameters, layout);
    const auto at_once = static_cast<size_t>(parallel::WeightsOptions{}.ahead) + 1;
    Gathered sum;
    std::set<size_t> before;
    for (size_t first = 0; first < order.size(); ++first) {
        const size_t end = std::min(order.size(), first + at_once);
        const std::set<size_t> kept(order.begin() + static_cast<std::ptrdiff_t>(first),
                                    order.begin() + static_cast<std::ptrdiff_t>(end));
        int64_t held = 0;
        for (const size_t unit : kept) {
            const int64_t more = bytes.bytes_of(layout.units()[unit].range);
            held += more;
            if (!before.contains(unit)) sum.all += more;
        }
        sum.at_once = std::max(sum.at_once, held);
        before = kept;
    }
    return sum;
}

/// The most that exchanges of gradients under way need at once: what arrives, what leaves in
/// another dtype, and with parallel.zero 2 and 3 the units on their way and the one that is filled.
int64_t passing_gradients(const RunConfig& config, const parallel::BucketLayout& layout, int rank,
                          int64_t ranks) {
    const auto limit = static_cast<size_t>(parallel::LaneReducerConfig{}.in_flight);
    const size_t at_once = ranks == 1                     ? 0
                           : config.parallel.pipeline > 1 ? layout.buckets()
                                                          : std::min(limit, layout.buckets());
    const bool is_narrow = config.parallel.wire_dtype == ComputeType::bf16;
    const int64_t wire = is_narrow ? 2 : 4;
    const auto exchanged = [&](size_t b) {
        const int64_t arrives =
            (ranks - 1) * layout.owned(b, rank, static_cast<int>(ranks)).elements();
        return wire * (arrives + (is_narrow ? layout.bucket(b).elements() : 0));
    };
    // One after the other leaves, of one lane and of the next.
    const size_t count = layout.buckets(), all = (config.train.lanes > ranks ? 2 : 1) * count;
    std::vector<int> held(layout.units().size());  // buckets under way, by unit
    int64_t most = 0, bytes = 0;
    const auto unit_bytes = [&](size_t unit) {
        return config.parallel.zero >= 2 ? 4 * layout.units()[unit].range.elements() : 0;
    };
    for (size_t end = 0; end < all; ++end) {
        const size_t filled = layout.unit_of(end % count);
        most = std::max(most, bytes + (held[filled] == 0 ? unit_bytes(filled) : 0));
        bytes += exchanged(end % count);
        if (held[filled]++ == 0) bytes += unit_bytes(filled);
        if (end < at_once) continue;
        const size_t oldest = (end - at_once) % count;
        bytes -= exchanged(oldest);
        if (--held[layout.unit_of(oldest)] == 0) bytes -= unit_bytes(layout.unit_of(oldest));
    }
    return std::max(most, bytes);
}

/// All but the activations, on one data-parallel rank.
MemoryPlan state_memory(const RunConfig& config, const std::vector<core::Parameter*>& parameters,
                        int rank, int64_t ranks) {
    const parallel::BucketLayout layout(parameters, config.parallel.bucket_bytes);
    const parallel::WeightLayout bytes = weight_bytes(config, layout);
    const Owned owned = owned_by(layout, rank, ranks, &bytes);
    const int64_t zero = config.parallel.zero;
    int64_t stored = 0, read_as_bf16 = 0;
    for (const core::Parameter* parameter : parameters) {
        stored += padded(parameter->local_elements());
        if (parameter->read_as(bytes.compute()) == DType::bf16)
            read_as_bf16 += parameter->local_elements();
    }
    MemoryPlan plan;
    // Masters, and what is read where that is not the same.
    const int64_t wide = (4 * owned.weights - owned.bytes) / 2 * 4;
    plan.weights = zero == 0 ? stored * 4 + read_as_bf16 * 2 : bytes.bytes() + wide;
    if (zero == 3)
        plan.weights = owned.bytes + wide + gathered(config, parameters, layout, bytes).at_once;
    // A lane, if it is kept; what passes; and what the rank owns of the totals, which a single
    // round of lanes keeps in the lane. Products of slots that are not a lane's first:
    // product_bytes.
    plan.gradients = passing_gradients(config, layout, rank, ranks);
    if (zero < 2) plan.gradients += 4 * layout.elements();
    if (zero >= 2 || config.train.lanes > ranks) plan.gradients += 4 * owned.all;
    plan.optimizer = 8 * (zero == 0 ? stored : owned.weights);
    return plan;
}

/// Of the products of slots that are not a lane's first, of each reducer of a stage (StageState).
int64_t product_bytes(const RunConfig& config, core::models::Transformer& model) {
    if (config.train.lanes == config.train.global_batch / config.train.micro_batch) return 0;
    int64_t sum = 0;
    const std::vector<core::models::Phase> phases = model.phases();
    for (const core::models::Chunk& chunk : phases.front().chunks) {
        int64_t forward = 0, shared = 0, rest = 0;
        for (const core::Parameter* parameter : chunk.parameters) {
            const bool in_forward = std::ranges::find(chunk.forward_parameters, parameter) !=
                                    chunk.forward_parameters.end();
            const bool is_shared =
                config.model.tied_head && parameter->name().starts_with("embedding.tokens");
            int64_t& largest = config.parallel.pipeline == 1 ? rest
                               : in_forward                  ? forward
                               : is_shared                   ? shared
                                                             : rest;
            largest = std::max(largest, parameter->local_elements());
        }
        sum += forward + shared + rest;
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

/// Of the gradients, on a rank of each stage.
std::vector<size_t> bucket_counts(const RunConfig& config) {
    std::vector<size_t> counts;
    for (int stage = 0; stage < static_cast<int>(config.parallel.pipeline); ++stage) {
        core::models::Transformer model = declared_model(config, stage);
        const std::vector<core::Parameter*> parameters = model.parameters().all();
        counts.push_back(
            parallel::BucketLayout(parameters, config.parallel.bucket_bytes).buckets());
    }
    return counts;
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

std::string memory_text(const MemoryPlan& memory) {
    return fmt::format(
        "# memory a rank       {} (weights {}, gradients {}, optimizer {}, activations {}, "
        "copy for checkpoints {})\n",
        gib(memory.total()), gib(memory.weights), gib(memory.gradients), gib(memory.optimizer),
        gib(std::max(memory.activations, memory.sums)), gib(memory.staging));
}

std::string device_memory_text(const MemoryPlan& memory, const PlannedDevice& device) {
    std::string text = fmt::format(
        "# memory a rank       {} of its GPU (weights {}, gradients {}, optimizer {}, activations "
        "{}, scratch {}) and {} of the host (copy for checkpoints)\n",
        gib(memory.computing()), gib(memory.weights), gib(memory.gradients), gib(memory.optimizer),
        gib(std::max(memory.activations, memory.sums)), gib(memory.scratch), gib(memory.staging));
    text += fmt::format(
        "# GPU                 {}, {}{}; CUDA and its libraries take about {} of it for "
        "themselves (an estimate, not in the sum)\n",
        device.name, gib(device.memory_bytes),
        device.is_assumed ? " (assumed: there is none on this machine)" : "",
        gib(device_context_estimate));
    if (const int64_t over = memory.computing() + device_context_estimate - device.memory_bytes;
        over > 0)
        text += fmt::format(
            "# does not fit        {} too much for a rank alone on that GPU: a smaller "
            "train.micro_batch, train.recompute=full, or more ranks with parallel.zero, "
            "parallel.tensor or parallel.pipeline need less\n",
            gib(over));
    return text;
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
        text += fmt::format("# stage {:<3}           {}; activations of {} at most, {} in all\n",
                            stage, fmt::join(chunks, "; "),
                            report.stages[static_cast<size_t>(stage)].peak_activations,
                            gib(memory.total()));
    }
    return text;
}

}  // namespace

MemoryPlan memory_plan(const RunConfig& config, int64_t ranks, int stage) {
    const std::vector<core::models::Parts> chunks = stage_parts(config, stage);
    core::models::Transformer model = declared_model(config, stage);
    const int64_t data = data_ranks(config, ranks);
    MemoryPlan plan;
    for (int rank = 0; rank < data; ++rank) {
        const MemoryPlan each = state_memory(config, model.parameters().all(), rank, data);
        if (each.total() > plan.total()) plan = each;
    }
    plan.gradients += product_bytes(config, model);
    // A copy of weights and moments, of which each rank that holds them writes its share.
    if (saves_beside_training(config.checkpoint))
        for (const core::Parameter* parameter : model.parameters().all())
            plan.staging += parameter->local_elements() * 12 /
                            (data * config.parallel.context *
                             (parameter->gradient_is_partial() ? config.parallel.tensor : 1));
    plan.sums = sum_bytes(config, model.parameters().all(), data);
    const parallel::ScheduleReport report = schedule_report(config, ranks);
    plan.activations = activation_bytes(config, chunks, stage,
                                        report.stages[static_cast<size_t>(stage)].peak_activations);
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

std::string plan_text(const RunConfig& config, int64_t ranks) {
    const MemoryPlan memory = memory_plan(config, ranks);
    const int64_t steps = total_steps(config.train, config.data.sequence_length);
    const int64_t slots = config.train.global_batch / config.train.micro_batch;
    const parallel::LanePlan lanes{slots, config.train.lanes,
                                   static_cast<int>(data_ranks(config, ranks))};
    std::string text = to_yaml(config);
    text += fmt::format("\n# parameters          {}\n", parameter_count(config.model));
    text += fmt::format("# ranks               {}\n", ranks);
    text += is_on_gpu(config) ? device_memory_text(memory, planned_device()) : memory_text(memory);
    if (ranks > 1) {
        const TrafficPlan traffic = traffic_plan(config, ranks);
        text += fmt::format(
            "# sent a step         {} by a rank (gradients {}, weights {}, activations {}, tensor "
            "group {}, context group {})\n",
            gib(traffic.gradients + traffic.weights + traffic.activations + traffic.tensor +
                traffic.context),
            gib(traffic.gradients), gib(traffic.weights), gib(traffic.activations),
            gib(traffic.tensor), gib(traffic.context));
    }
    text += fmt::format("# buckets             {}\n", fmt::join(bucket_counts(config), ", "));
    text += pipeline_text(config, ranks);
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
