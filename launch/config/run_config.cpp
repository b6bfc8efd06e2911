// SPDX-License-Identifier: Apache-2.0
#include "launch/config/run_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <set>

#include "launch/config/text.h"
#include "parallel/context_parallel/zigzag.h"

namespace plinth::launch {
namespace {

// The smallest batch that any step of the run has.
int64_t smallest_batch(const TrainSection& train) {
    int64_t smallest = train.global_batch;
    for (const BatchRampStage& stage : train.batch_ramp)
        smallest = std::min(smallest, stage.global_batch);
    return smallest;
}

std::optional<Problem> check_ramp(const TrainSection& train) {
    int64_t previous = -1;
    for (size_t i = 0; i < train.batch_ramp.size(); ++i) {
        const BatchRampStage& stage = train.batch_ramp[i];
        const std::string key = fmt::format("train.batch_ramp.{}", i);
        if (stage.samples <= previous)
            return Problem{key, fmt::format("samples {} do not come after the stage before ({})",
                                            stage.samples, previous)};
        if (stage.global_batch % train.micro_batch != 0)
            return Problem{key, fmt::format("global_batch {} is not a multiple of "
                                            "train.micro_batch {}",
                                            stage.global_batch, train.micro_batch)};
        previous = stage.samples;
    }
    if (train.batch_ramp.empty()) return {};
    const BatchRampStage &first = train.batch_ramp.front(), &last = train.batch_ramp.back();
    if (first.samples != 0)
        return Problem{
            "train.batch_ramp.0",
            fmt::format("begins at sample {}; the first stage begins at 0", first.samples)};
    if (last.global_batch != train.global_batch)
        return Problem{fmt::format("train.batch_ramp.{}", train.batch_ramp.size() - 1),
                       fmt::format("the last stage has global_batch {}, but holds to the end of "
                                   "the run: give it train.global_batch {}",
                                   last.global_batch, train.global_batch)};
    return {};
}

std::optional<Problem> check_sources(const DataSection& data) {
    std::set<std::string> names;
    for (size_t i = 0; i < data.sources.size(); ++i) {
        const BlendSource& source = data.sources[i];
        const std::string key = fmt::format("data.sources.{}", i);
        if (source.path.empty())
            return Problem{key, "path is missing: where are the shards of this source?"};
        if (!source.name.empty() && !names.insert(source.name).second)
            return Problem{
                key, fmt::format("two sources are called '{}'; give them names", source.name)};
    }
    int64_t previous = 0;
    for (size_t i = 0; i < data.skip.size(); ++i) {
        const SkipRange& range = data.skip[i];
        const std::string key = fmt::format("data.skip.{}", i);
        if (range.begin >= range.end)
            return Problem{key, fmt::format("[{}, {}) is empty", range.begin, range.end)};
        if (range.begin < previous)
            return Problem{key, fmt::format("begins at {}, before the range before it ends ({})",
                                            range.begin, previous)};
        previous = range.end;
    }
    return {};
}

std::optional<Problem> check_lengths(const RunConfig& config) {
    const ModelSection& model = config.model;
    if (model.positions == PositionKind::learned &&
        config.data.sequence_length > model.max_positions)
        return Problem{"data.sequence_length",
                       fmt::format("{} tokens, but model.max_positions is {} and learned positions "
                                   "end there",
                                   config.data.sequence_length, model.max_positions)};
    const int64_t steps = total_steps(config.train, config.data.sequence_length);
    if (config.optimizer.warmup_steps > steps)
        return Problem{"optimizer.warmup_steps",
                       fmt::format("{} steps of warm-up, but the run has {}",
                                   config.optimizer.warmup_steps, steps)};
    return {};
}

/// How the keys of a pipeline fit each other and the model.
std::optional<Problem> check_pipeline(const ParallelSection& parallel, const ModelSection& model) {
    const int64_t chunks = parallel.pipeline * parallel.virtual_stages;
    if (parallel.virtual_stages > 1 && parallel.schedule != PipelineSchedule::interleaved)
        return Problem{"parallel.virtual_stages",
                       fmt::format("{}, but only the schedule interleaved has several chunks on a "
                                   "stage: set parallel.schedule=interleaved or "
                                   "parallel.virtual_stages=1",
                                   parallel.virtual_stages)};
    if (parallel.virtual_stages > 1 && parallel.pipeline == 1)
        return Problem{"parallel.virtual_stages",
                       fmt::format("{}, but there is one stage and nothing to interleave: set "
                                   "parallel.virtual_stages=1 or more parallel.pipeline",
                                   parallel.virtual_stages)};
    if (chunks > model.layers)
        return Problem{
            parallel.virtual_stages > 1 ? "parallel.virtual_stages" : "parallel.pipeline",
            fmt::format("{} stages x {} chunks need {} layers or more, but the model has {}",
                        parallel.pipeline, parallel.virtual_stages, chunks, model.layers)};
    const std::vector<int64_t>& layers = parallel.stage_layers;
    if (layers.empty()) return {};
    bool fits = static_cast<int64_t>(layers.size()) == chunks &&
                std::accumulate(layers.begin(), layers.end(), int64_t{0}) == model.layers;
    // The first stage has the embedding, the last one the head: they may be without layers.
    for (size_t i = 1; i + 1 < layers.size(); ++i)
        fits = fits && layers[i] > 0;
    if (fits) return {};
    return Problem{"parallel.stage_layers",
                   fmt::format("[{}] does not fit: {} numbers are needed (parallel.pipeline {} x "
                               "parallel.virtual_stages {}) with the sum {} (model.layers), each "
                               "at least 1, but 0 is allowed in the first and the last",
                               fmt::join(layers, ", "), chunks, parallel.pipeline,
                               parallel.virtual_stages, model.layers)};
}

/// Context ranks share the tokens of a sequence by pairs of runs, tensor ranks those of each part.
std::optional<Problem> check_tokens(const RunConfig& config) {
    const int64_t context = config.parallel.context, tensor = config.parallel.tensor;
    const int64_t length = config.data.sequence_length;
    const int64_t multiple = std::lcm(parallel::context_multiple(context), context * tensor);
    if (length % multiple == 0) return {};
    return Problem{
        "data.sequence_length",
        fmt::format("parallel.context={} x parallel.tensor={} ranks cannot share {} "
                    "tokens evenly: take {} or another multiple of {}",
                    context, tensor, length, length / multiple * multiple + multiple, multiple)};
}

/// What the ranks of a tensor group must be able to divide among them.
std::optional<Problem> check_tensor(const ParallelSection& parallel, const ModelSection& model) {
    const int64_t ranks = parallel.tensor;
    if (ranks == 1) return {};
    const auto undivided = [&](const char* what, int64_t extent) {
        return Problem{"parallel.tensor",
                       fmt::format("{} ranks cannot divide {} {}: use a number of ranks that does, "
                                   "or another {}",
                                   ranks, what, extent, what)};
    };
    if (model.heads % ranks != 0) return undivided("model.heads", model.heads);
    if (model.kv_heads % ranks != 0) return undivided("model.kv_heads", model.kv_heads);
    if (model.ffn_width % ranks != 0) return undivided("model.ffn_width", model.ffn_width);
    const int64_t rows =
        (model.vocab_size + model.vocab_multiple - 1) / model.vocab_multiple * model.vocab_multiple;
    if (rows < ranks)
        return Problem{"parallel.tensor",
                       fmt::format("{} ranks cannot share the {} rows of the token table: use "
                                   "fewer ranks",
                                   ranks, rows)};
    return {};
}

/// What 8-bit products ask of the extents of each product on a rank.
std::optional<Problem> check_fp8(const RunConfig& config) {
    if (config.train.fp8 == Fp8Scaling::none) return {};
    constexpr int64_t multiple = 16;
    const ModelSection& m = config.model;
    const int64_t tensor = config.parallel.tensor, context = config.parallel.context;
    struct Extent {
        std::string what;
        int64_t value;
    };
    const std::string of_rank =
        tensor > 1 ? fmt::format(" / parallel.tensor {}", tensor) : std::string();
    const std::string tokens = "train.micro_batch x data.sequence_length";
    for (const auto& [what, value] :
         {Extent{"model.width", m.width},
          Extent{"(model.heads + 2 model.kv_heads) x model.head_width" + of_rank,
                 (m.heads + 2 * m.kv_heads) * m.head_width / tensor},
          Extent{"model.heads x model.head_width" + of_rank, m.heads * m.head_width / tensor},
          Extent{"model.ffn_width" + of_rank, m.ffn_width / tensor},
          Extent{context > 1 ? fmt::format("{} / parallel.context {}", tokens, context) : tokens,
                 config.train.micro_batch * config.data.sequence_length / context}})
        if (value % multiple != 0)
            return Problem{"train.fp8",
                           fmt::format("8-bit products need multiples of {}, but {} is {}; change "
                                       "that or set train.fp8=none",
                                       multiple, what, value)};
    return {};
}

/// What a captured micro-batch or update cannot hold: what differs from one to the next and is no
/// content of tensors, and work of other ranks or of the host.
std::optional<Problem> check_graphs(const RunConfig& config, int64_t world) {
    if (!config.run.graphs) return {};
    const auto refused = [](const std::string& what, const std::string& why) {
        return Problem{"run.graphs",
                       fmt::format("{}, but {}: change that or set run.graphs=false", what, why)};
    };
    if (world > 1)
        return refused(fmt::format("{} ranks run", world), "graphs hold no exchange between ranks");
    if (config.model.dropout > 0)
        return refused(fmt::format("model.dropout is {}", config.model.dropout),
                       "the number of the step, by which elements are dropped, is an argument of "
                       "kernels, which graphs keep");
    if (config.model.positions == PositionKind::alibi)
        return refused("model.positions is alibi",
                       "its slopes come from the host's memory in each forward pass");
    if (config.train.fp8 != Fp8Scaling::none)
        return refused("train.fp8 is on", "8-bit weights are made once a step, within it");
    if (config.optimizer.moments != ComputeType::fp32)
        return refused("optimizer.moments is not fp32",
                       "the number of the step, by which moments are rounded, is an argument of "
                       "kernels, which graphs keep");
    if (config.optimizer.offload != OptimizerOffload::none)
        return refused("optimizer.offload is on", "graphs hold no work of the host");
    if (config.train.offload_activations)
        return refused("train.offload_activations is on",
                       "graphs hold no copies beside the stream");
    if (config.parallel.zero > 0)
        return refused(fmt::format("parallel.zero is {}", config.parallel.zero),
                       "weights that are gathered do not stay where graphs read them");
    if (config.parallel.wire_dtype != ComputeType::fp32)
        return refused("parallel.wire_dtype is not fp32",
                       "memory of gradients on their way is not a graph's own");
    return {};
}

/// What layouts there are not.
std::optional<Problem> check_available(const ParallelSection& parallel) {
    if (parallel.zero == 3 && parallel.pipeline > 1)
        return Problem{"parallel.zero",
                       "3 shares weights that a pipeline would gather for each micro-batch of each "
                       "stage: with parallel.pipeline set parallel.zero to 2 at most"};
    return {};
}

}  // namespace

void resolve(ModelSection& model) {
    if (model.kv_heads == 0) model.kv_heads = model.heads;
    if (model.head_width == 0 && model.width % model.heads == 0)
        model.head_width = model.width / model.heads;
    if (model.ffn_width == 0) model.ffn_width = 4 * model.width;
}

void resolve(TrainSection& train) {
    if (train.lanes == 0)
        train.lanes = std::clamp<int64_t>(smallest_batch(train) / train.micro_batch, 1, 8);
}

void resolve(CheckpointSection& checkpoint, RunSection& run) {
    if (run.name.empty()) run.name = last_part(run.folder);
    if (checkpoint.folder.empty()) checkpoint.folder = core::io::join(run.folder, "checkpoints");
}

void resolve(RunConfig& config) {
    resolve(config.model);
    resolve(config.train);
    resolve(config.checkpoint, config.run);
}

std::optional<Problem> validate(const ModelSection& model) {
    // A head width of its own needs no division (Llama-like models with wide heads).
    if (model.head_width == 0)
        return Problem{"model.heads",
                       fmt::format("model.width {} is not a multiple of {} heads; change one, or "
                                   "give model.head_width",
                                   model.width, model.heads)};
    if (model.kv_heads > model.heads || model.heads % model.kv_heads != 0)
        return Problem{"model.kv_heads", fmt::format("model.heads {} is not a multiple of {}",
                                                     model.heads, model.kv_heads)};
    if (model.positions == PositionKind::rotary && model.head_width % 2 != 0)
        return Problem{"model.head_width",
                       fmt::format("{} is odd; rotary positions turn pairs", model.head_width)};
    const RopeScaling& scaling = model.rope_scaling;
    if (scaling.kind != RopeScalingKind::none && model.positions != PositionKind::rotary)
        return Problem{"model.rope_scaling.type", "needs model.positions rotary"};
    if (scaling.low_freq_factor >= scaling.high_freq_factor)
        return Problem{"model.rope_scaling.low_freq_factor",
                       fmt::format("{} must be under high_freq_factor {}", scaling.low_freq_factor,
                                   scaling.high_freq_factor)};
    return {};
}

std::optional<Problem> validate_language_model(const ModelSection& model) {
    if (!model.causal)
        return Problem{"model.causal",
                       "false shows each token the next one, which is what it must predict: set "
                       "model.causal=true (only finetune.mode=classification takes false)"};
    return {};
}

std::optional<Problem> validate(const TrainSection& train) {
    if (train.steps && train.tokens)
        return Problem{"train.tokens", "train.steps is given too; give one of them"};
    if (!train.steps && !train.tokens)
        return Problem{"train.steps", "is missing: how long shall the run be? (or train.tokens)"};
    if (train.global_batch % train.micro_batch != 0)
        return Problem{"train.global_batch",
                       fmt::format("{} samples are not a multiple of train.micro_batch {}",
                                   train.global_batch, train.micro_batch)};
    if (train.fp8 != Fp8Scaling::none && train.dtype != ComputeType::bf16)
        return Problem{"train.fp8",
                       "8-bit products stand beside bf16 ones: set train.dtype=bf16, or "
                       "train.fp8=none"};
    if (train.offload_activations && train.recompute != Recompute::full)
        return Problem{"train.offload_activations",
                       "what waits in host memory are the inputs of blocks that run again: set "
                       "train.recompute=full, or train.offload_activations=false"};
    if (auto problem = check_ramp(train)) return problem;
    const int64_t slots = smallest_batch(train) / train.micro_batch;
    if (train.lanes > slots)
        return Problem{"train.lanes",
                       fmt::format("{} lanes, but a step has only {} micro-batches ({} samples of "
                                   "{}); at most one lane each",
                                   train.lanes, slots, smallest_batch(train), train.micro_batch)};
    return {};
}

std::optional<Problem> validate(const OptimizerSection& optimizer) {
    if (optimizer.schedule != ScheduleKind::constant && optimizer.min_lr > optimizer.lr)
        return Problem{"optimizer.min_lr",
                       fmt::format("{} is over optimizer.lr {}", optimizer.min_lr, optimizer.lr)};
    return {};
}

std::optional<Problem> validate(const ParallelSection& parallel, const TrainSection& train) {
    const int64_t slots = train.global_batch / train.micro_batch;
    if (parallel.data > train.lanes)
        return Problem{"parallel.data",
                       fmt::format("{} ranks share a step of {} lanes; write train.lanes={} or use "
                                   "fewer ranks",
                                   parallel.data, train.lanes, parallel.data)};
    if (parallel.zero >= 2 && train.lanes != slots)
        return Problem{"parallel.zero",
                       fmt::format("{} folds gradients after every micro-batch and needs "
                                   "train.lanes={} (it is {})",
                                   parallel.zero, slots, train.lanes)};
    if (parallel.zero >= 2 && !train.batch_ramp.empty())
        return Problem{
            "parallel.zero",
            fmt::format("{} needs one lane a micro-batch, which train.batch_ramp changes",
                        parallel.zero)};
    return {};
}

std::optional<Problem> validate(const RunConfig& config) {
    if (auto problem = validate(config.model)) return problem;
    if (auto problem = check_sources(config.data)) return problem;
    if (auto problem = validate(config.train)) return problem;
    if (auto problem = validate(config.optimizer)) return problem;
    if (auto problem = validate(config.parallel, config.train)) return problem;
    if (auto problem = check_lengths(config)) return problem;
    if (config.run.folder.empty())
        return Problem{"run.folder", "is empty: where shall the run write?"};
    return {};
}

std::optional<Problem> validate_for_reading(const ParallelSection& parallel) {
    if (parallel.context > 1)
        return Problem{"parallel.context",
                       fmt::format("{} ranks, but a stage that only reads a model has whole "
                                   "sequences on each: set parallel.context=1, and share the model "
                                   "by parallel.tensor or parallel.pipeline",
                                   parallel.context)};
    if (parallel.zero > 0)
        return Problem{"parallel.zero",
                       fmt::format("{}, but ZeRO shares what training keeps: set parallel.zero=0, "
                                   "and share the model by parallel.tensor or parallel.pipeline",
                                   parallel.zero)};
    if (parallel.virtual_stages > 1)
        return Problem{"parallel.virtual_stages",
                       fmt::format("{} chunks on a stage, but they shorten the bubble of training: "
                                   "set parallel.virtual_stages=1",
                                   parallel.virtual_stages)};
    return {};
}

std::optional<Problem> validate_ranks(const ParallelSection& parallel, int64_t world) {
    const int64_t inner = parallel.tensor * parallel.pipeline * parallel.context;
    if (world % inner != 0)
        return Problem{parallel.pipeline > 1 ? "parallel.pipeline"
                       : parallel.tensor > 1 ? "parallel.tensor"
                                             : "parallel.context",
                       fmt::format("{} rank{} cannot be shared by tensor {} x pipeline {} x "
                                   "context {}: start {} (mpirun -n), or a multiple",
                                   world, world == 1 ? "" : "s", parallel.tensor, parallel.pipeline,
                                   parallel.context, inner)};
    if (parallel.data != 0 && parallel.data * inner != world)
        return Problem{"parallel.data",
                       fmt::format("data {} x tensor {} x pipeline {} x context {} need {} "
                                   "ranks, but {} run",
                                   parallel.data, parallel.tensor, parallel.pipeline,
                                   parallel.context, parallel.data * inner, world)};
    return {};
}

std::optional<Problem> validate_shares(const ParallelSection& parallel, const ModelSection& model) {
    if (auto problem = check_tensor(parallel, model)) return problem;
    return check_pipeline(parallel, model);
}

std::optional<Problem> validate_world(const RunConfig& config, int64_t world) {
    const ParallelSection& parallel = config.parallel;
    if (auto problem = validate_ranks(parallel, world)) return problem;
    if (auto problem = check_tensor(parallel, config.model)) return problem;
    if (auto problem = check_tokens(config)) return problem;
    if (auto problem = check_fp8(config)) return problem;
    if (auto problem = check_graphs(config, world)) return problem;
    if (auto problem = check_pipeline(parallel, config.model)) return problem;
    const int64_t replicas = world / (parallel.tensor * parallel.pipeline * parallel.context);
    const int64_t slots = smallest_batch(config.train) / config.train.micro_batch;
    if (replicas > slots)
        return Problem{"train.global_batch",
                       fmt::format("a step has {} micro-batches, but {} data-parallel ranks run; "
                                   "use fewer ranks, a larger train.global_batch or a smaller "
                                   "train.micro_batch",
                                   slots, replicas)};
    ParallelSection filled = parallel;
    filled.data = replicas;
    if (auto problem = validate(filled, config.train)) return problem;
    return check_available(parallel);
}

int64_t moment_bytes(const OptimizerSection& optimizer) {
    return optimizer.moments == ComputeType::bf16 ? 2 * 2 : 2 * 4;
}

int64_t saved_bytes(const OptimizerSection& optimizer) {
    return 4 + moment_bytes(optimizer);
}

int64_t global_batch_at(const TrainSection& train, int64_t consumed) {
    int64_t batch = train.global_batch;
    for (const BatchRampStage& stage : train.batch_ramp)
        if (consumed >= stage.samples) batch = stage.global_batch;
    return batch;
}

int64_t total_steps(const TrainSection& train, int64_t sequence_length) {
    if (train.steps) return *train.steps;
    const int64_t samples = (train.tokens.value_or(0) + sequence_length - 1) / sequence_length;
    int64_t steps = 0;
    int64_t consumed = 0;
    // Each stage is crossed in whole steps: the batch changes at the first step that starts in it.
    for (const BatchRampStage& stage : train.batch_ramp) {
        const int64_t batch = global_batch_at(train, consumed);
        const int64_t end = std::min(stage.samples, samples);
        if (consumed >= end) continue;
        const int64_t crossed = (end - consumed + batch - 1) / batch;
        steps += crossed;
        consumed += crossed * batch;
    }
    const int64_t batch = global_batch_at(train, consumed);
    if (consumed < samples) steps += (samples - consumed + batch - 1) / batch;
    return steps;
}

}  // namespace plinth::launch
