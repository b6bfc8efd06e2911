// SPDX-License-Identifier: Apache-2.0
// What every key of a run is called, means and may be; the model's stand in model_schema.cpp, those
// of the process and its checkpoints in process_schema.cpp. docs/configuration.md is printed from
// here.
#include "launch/config/run_config.h"

namespace plinth::launch {
namespace {

const Names<ComputeType> compute_types{{"fp32", ComputeType::fp32}, {"bf16", ComputeType::bf16}};
const Names<PipelineSchedule> pipeline_schedules{{"gpipe", PipelineSchedule::gpipe},
                                                 {"1f1b", PipelineSchedule::one_f_one_b},
                                                 {"interleaved", PipelineSchedule::interleaved},
                                                 {"zero_bubble", PipelineSchedule::zero_bubble}};

// What stages that only read a model share with training.

void declare_axes(Schema& schema, ParallelSection& parallel) {
    schema.key("parallel.data", &parallel.data,
               {.doc = "Data-parallel ranks; 0 means ranks / (tensor x pipeline x context).",
                .min = 0,
                .max = 1 << 20});
    schema.key("parallel.tensor", &parallel.tensor,
               {.doc = "Ranks that share every layer of one copy of the model: heads, hidden "
                       "features, vocabulary, and between the products the tokens.",
                .min = 1,
                .max = 1 << 20,
                .resume = Resume::recorded});
    schema.key("parallel.pipeline", &parallel.pipeline,
               {.doc = "Pipeline stages.", .min = 1, .max = 1 << 16});
}

void declare_stage_layers(Schema& schema, ParallelSection& parallel) {
    schema.key("parallel.stage_layers", &parallel.stage_layers,
               {.doc = "Layers of each virtual stage, in model order; empty cuts the model by the "
                       "cost of its parts, embedding and head included.",
                .min = 0,
                .max = 1 << 20});
}

void declare_sources(Schema& schema, DataSection& data) {
    schema.list<BlendSource>(
        "data.sources", &data.sources,
        {.doc =
             "The blend; a plain path stands for `{path: ...}`. A changed weight appends a blend "
             "segment: nothing is lost or repeated."},
        [](Schema& element, BlendSource& source) {
            element.section("", "", Resume::recorded);
            element.key("path", &source.path,
                        {.doc = "Folder of the data set (its manifest.json and shards)."});
            element.key("weight", &source.weight,
                        {.doc = "Share of samples, relative to the other sources.", .above = 0});
            element.key("name", &source.name,
                        {.doc = "Permanent name, which keys the order of its samples; empty means "
                                "the one in its manifest."});
        },
        "path");
}

void declare_ramp(Schema& schema, TrainSection& train) {
    schema.list<BatchRampStage>(
        "train.batch_ramp", &train.batch_ramp,
        {.doc = "Smaller batches at the start: stages in order of samples. The first begins at 0, "
                "the last has train.global_batch and holds to the end of the run."},
        [](Schema& element, BatchRampStage& stage) {
            element.section("", "", Resume::recorded);
            element.key("samples", &stage.samples,
                        {.doc = "Consumed samples from which the stage holds.",
                         .unit = "samples",
                         .min = 0,
                         .max = 1e17});
            element.key("global_batch", &stage.global_batch,
                        {.doc = "Samples in one optimizer step.",
                         .unit = "samples",
                         .min = 1,
                         .max = largest_dim});
        });
}

/// In what types a step computes, and what its backward pass keeps.
void declare_arithmetic(Schema& schema, TrainSection& train) {
    schema.choice("train.dtype", &train.dtype, compute_types,
                  {.doc = "Type of activations and compute weights; master weights are fp32."});
    schema.choice(
        "train.fp8", &train.fp8,
        {{"none", Fp8Scaling::none},
         {"current", Fp8Scaling::current},
         {"delayed", Fp8Scaling::delayed}},
        {.doc =
             "Products of attention's and the MLP's linear layers with operands of 8 bits, beside "
             "train.dtype bf16: E4M3 for inputs and weights, E5M2 for gradients, one scale a "
             "tensor, from its own largest magnitude (current) or from those of the 16 steps "
             "before (delayed). Extents must be multiples of 16. The CPU emulates it, slowly."});
    schema.key("train.seed", &train.seed,
               {.doc = "Keys initial weights and dropout.", .min = 0, .resume = Resume::refused});
    schema.key(
        "train.tf32", &train.tf32,
        {.doc = "On a GPU, products of fp32 matrices with 10-bit mantissas (TF32): several times "
                "faster, less exact."});
    schema.choice(
        "train.recompute", &train.recompute,
        {{"none", Recompute::none},
         {"norms", Recompute::norms},
         {"selective", Recompute::selective},
         {"full", Recompute::full}},
        {.doc = "What the backward pass makes again instead of keeping it; the same bits. "
                "norms: outputs of norms and activation functions; selective: also the "
                "feed-forward layers' hidden values, by their first product; full: whole "
                "blocks, of which only the inputs are kept.",
         .resume = Resume::free});
    schema.key(
        "train.offload_activations", &train.offload_activations,
        {.doc =
             "Keeps the inputs of blocks, which train.recompute=full needs again, in pinned host "
             "memory: they leave and come beside the computation, and a GPU then holds three of "
             "them at most. It changes no bit. On the CPU it goes the same way and saves "
             "nothing.",
         .resume = Resume::free});
}

}  // namespace

void declare(Schema& schema, DataSection& data) {
    schema.section("data", "What the model reads: data sets that `plinth data prepare` wrote.",
                   Resume::recorded);
    declare_sources(schema, data);
    schema.key("data.held_out", &data.held_out,
               {.doc = "Data set whose held-out split is evaluated during training; empty means "
                       "the held-out splits of all sources that have one, each by its size.",
                .resume = Resume::free});
    schema.key("data.sequence_length", &data.sequence_length,
               {.doc = "Length of a sample.",
                .unit = "tokens",
                .min = 1,
                .max = largest_dim,
                .resume = Resume::refused});
    schema.key(
        "data.tokenizer", &data.tokenizer,
        {.doc = "Tokenizer folder or `byte` that the data sets must have been made with; empty "
                "means the one that the first of them names. A resume needs the same "
                "tokenizer, wherever it lies.",
         .resume = Resume::free});
    schema.key("data.seed", &data.seed,
               {.doc = "Keys the order of samples.", .min = 0, .resume = Resume::refused});
    schema.key("data.document_mask", &data.document_mask,
               {.doc = "Attention and positions restart at each document."});
    schema.list<SkipRange>(
        "data.skip", &data.skip, {.doc = "Ranges of global sample numbers that are left out."},
        [](Schema& element, SkipRange& range) {
            element.section("", "", Resume::recorded);
            element.key("begin", &range.begin, {.doc = "First sample left out.", .min = 0});
            element.key("end", &range.end, {.doc = "First sample read again.", .min = 0});
        });
    schema.key("data.verify", &data.verify,
               {.doc = "Hash every shard before the first step, each rank its share, at the disk's "
                       "speed; a damaged one ends the run.",
                .resume = Resume::free});
    schema.key("data.prefetch", &data.prefetch,
               {.doc = "Micro-batches read ahead, as many as data.memory holds.",
                .min = 1,
                .max = 4096,
                .resume = Resume::free});
    schema.bytes("data.memory", &data.memory,
                 {.doc = "Bound on the micro-batches read ahead in one rank; one is read ahead all "
                         "the same.",
                  .unit = "bytes",
                  .min = 1 << 20,
                  .resume = Resume::free});
}

void declare(Schema& schema, TrainSection& train) {
    schema.section("train", "How long and in what pieces to train.", Resume::recorded);
    schema.key(
        "train.steps", &train.steps,
        {.doc = "Length of the run; give this or tokens.", .unit = "steps", .min = 1, .max = 1e12});
    schema.key(
        "train.tokens", &train.tokens,
        {.doc = "Length of the run; give this or steps.", .unit = "tokens", .min = 1, .max = 1e17});
    schema.key("train.global_batch", &train.global_batch,
               {.doc = "Samples in one optimizer step, over all ranks.",
                .unit = "samples",
                .min = 1,
                .max = largest_dim});
    schema.key("train.micro_batch", &train.micro_batch,
               {.doc = "Samples in one forward and backward pass.",
                .unit = "samples",
                .min = 1,
                .max = largest_dim});
    schema.key("train.lanes", &train.lanes,
               {.doc = "Lanes of the ordered gradient sum, the most data-parallel ranks that can "
                       "share a step; 0 means min(global_batch / micro_batch, 8).",
                .min = 0,
                .max = 1 << 20});
    declare_ramp(schema, train);
    declare_arithmetic(schema, train);
    schema.key(
        "train.eval_every", &train.eval_every,
        {.doc = "Steps between evaluations on held-out data, which must be there; the last step is "
                "followed by one, too. 0 means never.",
         .unit = "steps",
         .min = 0,
         .resume = Resume::free});
    schema.key("train.eval_batches", &train.eval_batches,
               {.doc = "Micro-batches of one evaluation, over all ranks.",
                .min = 1,
                .max = largest_dim,
                .resume = Resume::free});
    schema.key("train.sample_every", &train.sample_every,
               {.doc = "Steps between generated samples; 0 means never.",
                .unit = "steps",
                .min = 0,
                .resume = Resume::free});
    schema.key("train.sample_prompt", &train.sample_prompt,
               {.doc = "Start of the generated samples.", .resume = Resume::free});
    schema.key("train.max_skipped_steps", &train.max_skipped_steps,
               {.doc = "Steps in a row whose loss or gradient is not finite after which the run "
                       "ends as diverged, with exit code 7; 0 means never.",
                .unit = "steps",
                .min = 0,
                .resume = Resume::free});
}

void declare(Schema& schema, OptimizerSection& optimizer) {
    schema.section("optimizer", "AdamW and its learning-rate schedule.", Resume::recorded);
    schema.key("optimizer.lr", &optimizer.lr, {.doc = "Highest learning rate.", .min = 0});
    schema.key("optimizer.min_lr", &optimizer.min_lr,
               {.doc = "Learning rate at the end of the decay.", .min = 0});
    schema.key("optimizer.beta1", &optimizer.beta1,
               {.doc = "Decay of the mean gradient.", .min = 0, .below = 1});
    schema.key("optimizer.beta2", &optimizer.beta2,
               {.doc = "Decay of the mean squared gradient.", .min = 0, .below = 1});
    schema.key("optimizer.eps", &optimizer.eps,
               {.doc = "Added to the root of the mean squared gradient.", .above = 0});
    schema.key("optimizer.weight_decay", &optimizer.weight_decay,
               {.doc = "Decoupled decay, on matrices only (not on norms and biases).", .min = 0});
    schema.key("optimizer.clip", &optimizer.clip,
               {.doc = "Largest global gradient norm; 0 means no clipping.", .min = 0});
    schema.choice("optimizer.schedule", &optimizer.schedule,
                  {{"cosine", ScheduleKind::cosine},
                   {"linear", ScheduleKind::linear},
                   {"wsd", ScheduleKind::wsd},
                   {"constant", ScheduleKind::constant}},
                  {.doc = "Shape after the warm-up; wsd is warm-up, stable, decay."});
    schema.key("optimizer.warmup_steps", &optimizer.warmup_steps,
               {.doc = "Steps of linear warm-up.", .unit = "steps", .min = 0, .max = 1e12});
    schema.key(
        "optimizer.decay_steps", &optimizer.decay_steps,
        {.doc = "Length of the decay: for wsd the last steps of the run, else counted from "
                "the end of the warm-up; 0 means a tenth of the run for wsd, else all of it.",
         .unit = "steps",
         .min = 0,
         .max = 1e12});
    schema.key(
        "optimizer.z_loss", &optimizer.z_loss,
        {.doc =
             "Weight of the squared log of the softmax denominator in what is minimised; reported "
             "losses are the cross-entropy alone, this term is the metric z_loss.",
         .min = 0});
    schema.choice(
        "optimizer.moments", &optimizer.moments, compute_types,
        {.doc = "Type in which both moments are kept: fp32 takes 8 bytes a parameter, bf16 takes "
                "4. They are computed in fp32; bf16 is rounded up or down at random, so that small "
                "changes add up. A resume with the other type converts them."});
    schema.choice(
        "optimizer.offload", &optimizer.offload,
        {{"none", OptimizerOffload::none}, {"states", OptimizerOffload::states}},
        {.doc = "states keeps fp32 master weights and both moments in host memory, where the CPU "
                "updates them: a GPU then holds gradients and the weights that operations read. It "
                "changes no bit. On the CPU it goes the same way and saves nothing.",
         .resume = Resume::free});
}

void declare(Schema& schema, ParallelSection& parallel) {
    schema.section(
        "parallel",
        "The layout over ranks. Data ranks, pipeline stages and ZeRO change no bit of the "
        "result; tensor and context ranks change it within rounding.",
        Resume::free);
    declare_axes(schema, parallel);
    schema.choice(
        "parallel.schedule", &parallel.schedule, pipeline_schedules,
        {.doc = "Order of a stage's passes: all forward first; one forward, one backward; the same "
                "over several chunks of the model; or backward passes in two halves."});
    schema.key("parallel.virtual_stages", &parallel.virtual_stages,
               {.doc = "Chunks of the model on each stage; more than one with the schedule "
                       "interleaved only.",
                .min = 1,
                .max = 1 << 10});
    declare_stage_layers(schema, parallel);
    schema.key("parallel.context", &parallel.context,
               {.doc = "Ranks that share the tokens of each sequence.",
                .min = 1,
                .max = 1 << 16,
                .resume = Resume::recorded});
    schema.key("parallel.zero", &parallel.zero,
               {.doc = "What data-parallel ranks share: 0 nothing, 1 optimizer states, 2 and "
                       "gradients, 3 and parameters.",
                .min = 0,
                .max = 3});
    schema.bytes("parallel.bucket_bytes", &parallel.bucket_bytes,
                 {.doc = "Gradient bytes that are reduced together.",
                  .unit = "bytes",
                  .min = 4096,
                  .max = int64_t{1} << 32});
    schema.choice(
        "parallel.wire_dtype", &parallel.wire_dtype, compute_types,
        {.doc = "Type in which gradients travel; bf16 rounds every lane, on one rank too.",
         .resume = Resume::recorded});
}

void declare_for_reading(Schema& schema, ParallelSection& parallel) {
    schema.section(
        "parallel",
        "The layout over ranks. Data ranks and pipeline stages change no bit of the result; tensor "
        "ranks change it within rounding.",
        Resume::free);
    declare_axes(schema, parallel);
    declare_stage_layers(schema, parallel);
    schema.key("parallel.context", &parallel.context, {.doc = "Of training only: 1.", .min = 1});
    schema.key("parallel.zero", &parallel.zero, {.doc = "Of training only: 0.", .min = 0});
    schema.key("parallel.virtual_stages", &parallel.virtual_stages,
               {.doc = "Of training only: 1.", .min = 1});
}

void declare(Schema& schema, RunConfig& config) {
    declare(schema, config.model);
    declare(schema, config.data);
    declare(schema, config.train);
    declare(schema, config.optimizer);
    declare(schema, config.parallel);
    declare(schema, config.checkpoint);
    declare(schema, config.run);
}

}  // namespace plinth::launch
