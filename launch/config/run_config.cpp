// SPDX-License-Identifier: Apache-2.0
#include "launch/config/run_config.h"

#include <fmt/format.h>

#include <algorithm>

#include "launch/config/run_checks.h"
#include "launch/config/text.h"

namespace plinth::launch {

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
    if (model.sliding_window > 0 && !model.causal)
        return Problem{"model.sliding_window",
                       fmt::format("{} tokens before each one, but model.causal is false: set one "
                                   "of them back",
                                   model.sliding_window)};
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
    if (auto problem = check_graphs(config)) return problem;
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
