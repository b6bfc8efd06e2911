// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "launch/config/load.h"

// The configuration of `plinth pretrain`, one struct a section. What each key means, its unit,
// range and resume class are declared beside the field's name in run_schema.cpp and printed in
// docs/configuration.md; the comments here only name what is derived when a field is 0.
namespace plinth::launch {

enum class NormKind { layer, rms };
enum class PositionKind { learned, rotary, alibi, none };
enum class RopeScalingKind { none, llama3 };
enum class Activation { gelu_tanh, gelu_erf, swiglu };
enum class ComputeType { fp32, bf16 };
/// How the 8-bit products of training get their scales; none: there are none.
enum class Fp8Scaling { none, current, delayed };
/// Where a rank computes; automatic: on a GPU where there is one.
enum class DeviceKind { automatic, cpu, cuda };
/// How the device memories of ranks exchange: through the host and MPI, or directly.
enum class DeviceExchange { automatic, host, nccl };
/// In the order of what they keep: each makes again what the one before it does, and more.
enum class Recompute { none, norms, selective, full };
/// Outputs of norms and activation functions are made again one by one.
constexpr bool remakes_norms(Recompute policy) {
    return policy == Recompute::norms || policy == Recompute::selective;
}
enum class PipelineSchedule { gpipe, one_f_one_b, interleaved, zero_bubble };
enum class ScheduleKind { cosine, linear, wsd, constant };
/// What of the optimizer is in host memory: nothing apart, or fp32 master weights and moments.
enum class OptimizerOffload { none, states };

/// Llama-3's stretching of long wavelengths.
struct RopeScaling {
    RopeScalingKind kind = RopeScalingKind::none;
    double factor = 8;
    double low_freq_factor = 1;
    double high_freq_factor = 4;
    int64_t original_positions = 8192;
};

struct ModelSection {
    int64_t vocab_size = 50257;
    int64_t vocab_multiple = 1;
    int64_t layers = 12;
    int64_t width = 768;
    int64_t heads = 12;
    int64_t kv_heads = 0;    ///< 0: heads
    int64_t head_width = 0;  ///< 0: width / heads
    int64_t ffn_width = 0;   ///< 0: 4 x width
    int64_t max_positions = 1024;
    NormKind norm = NormKind::layer;
    double norm_eps = 1e-5;
    PositionKind positions = PositionKind::learned;
    double rope_theta = 10000;
    RopeScaling rope_scaling;
    Activation activation = Activation::gelu_tanh;
    bool tied_head = true;
    bool attention_bias = true;
    bool qkv_bias = true;
    bool mlp_bias = true;
    bool qk_norm = false;
    bool embedding_norm = false;
    bool causal = true;
    int64_t sliding_window = 0;  ///< tokens that one sees, itself included; 0: all
    double dropout = 0;
    double init_std = 0.02;
};

struct BlendSource {
    std::string path;
    double weight = 1;
    std::string name;  ///< empty: the name in the data set's manifest
};

/// Samples [begin, end) are left out.
struct SkipRange {
    int64_t begin = 0;
    int64_t end = 0;
};

struct DataSection {
    std::vector<BlendSource> sources;
    std::string held_out;
    int64_t sequence_length = 1024;
    std::string tokenizer;
    int64_t seed = 1234;
    bool document_mask = false;
    std::vector<SkipRange> skip;
    bool verify = true;
    int64_t prefetch = 8;
    int64_t memory = int64_t{512} << 20;
};

/// From `samples` consumed on, a step holds `global_batch` samples. The first stage begins at 0,
/// the last one has train.global_batch and holds to the end.
struct BatchRampStage {
    int64_t samples = 0;
    int64_t global_batch = 1;
};

struct TrainSection {
    std::optional<int64_t> steps;
    std::optional<int64_t> tokens;
    int64_t global_batch = 8;
    int64_t micro_batch = 1;
    int64_t lanes =
        0;  ///< 0: min(global_batch / micro_batch, 8), at the smallest batch of the ramp
    std::vector<BatchRampStage> batch_ramp;
    ComputeType dtype = ComputeType::fp32;
    Fp8Scaling fp8 = Fp8Scaling::none;
    int64_t seed = 1234;
    Recompute recompute = Recompute::norms;
    bool offload_activations = false;
    bool tf32 = false;
    int64_t eval_every = 0;
    int64_t eval_batches = 8;
    int64_t sample_every = 0;
    std::string sample_prompt;
    int64_t max_skipped_steps = 20;
};

struct OptimizerSection {
    double lr = 6e-4;
    double min_lr = 6e-5;
    double beta1 = 0.9;
    double beta2 = 0.95;
    double eps = 1e-8;
    double weight_decay = 0.1;
    double clip = 1;
    ScheduleKind schedule = ScheduleKind::cosine;
    int64_t warmup_steps = 0;
    int64_t decay_steps = 0;
    double z_loss = 0;
    ComputeType moments = ComputeType::fp32;
    OptimizerOffload offload = OptimizerOffload::none;
};

struct ParallelSection {
    int64_t data = 0;  ///< 0: ranks / (tensor x pipeline x context)
    int64_t tensor = 1;
    int64_t pipeline = 1;
    PipelineSchedule schedule = PipelineSchedule::one_f_one_b;
    int64_t virtual_stages = 1;
    std::vector<int64_t> stage_layers;  ///< empty: cut by cost
    int64_t context = 1;
    int64_t zero = 0;
    int64_t bucket_bytes = int64_t{1} << 20;
    ComputeType wire_dtype = ComputeType::fp32;
};

struct CheckpointSection {
    std::string folder;  ///< empty: RUN.FOLDER/checkpoints
    int64_t every = 1000;
    double every_seconds = 0;
    int64_t keep = 3;
    int64_t keep_every = 0;
    bool verify = true;
    bool async = true;
    std::string init;
};

struct MetricsSection {
    bool jsonl = true;
    bool tensorboard = true;
};

struct RunSection {
    std::string folder = "runs/default";
    std::string name;  ///< empty: the last part of run.folder
    double time_limit = 0;
    DeviceKind device = DeviceKind::automatic;
    DeviceExchange device_exchange = DeviceExchange::automatic;
    bool reproducible = false;
    bool graphs = false;          ///< see MicroBatchGraphs
    std::string algorithm_cache;  ///< empty: `plinth` in the user's cache folder
    int64_t threads = 0;          ///< 0: the cores this rank may use
    double timeout = 600;
    double hang_seconds = 10;
    int64_t hash_check_every = 1000;
    int64_t log_every = 1;
    MetricsSection metrics;
    double peak_flops = 0;
};

struct RunConfig {
    ModelSection model;
    DataSection data;
    TrainSection train;
    OptimizerSection optimizer;
    ParallelSection parallel;
    CheckpointSection checkpoint;
    RunSection run;
};

const Names<DeviceKind>& device_names();

/// Binds a section's keys; `declare(schema, run_config)` binds them all. Stages share sections.
void declare(Schema& schema, ModelSection& model);
void declare(Schema& schema, DataSection& data);
void declare(Schema& schema, TrainSection& train);
void declare(Schema& schema, OptimizerSection& optimizer);
void declare(Schema& schema, ParallelSection& parallel);
void declare(Schema& schema, CheckpointSection& checkpoint);
void declare(Schema& schema, RunSection& run);
void declare(Schema& schema, RunConfig& config);
/// What a stage that only reads a model has of the two: its layout, and how its ranks are watched.
void declare_for_reading(Schema& schema, ParallelSection& parallel);
void declare_for_reading(Schema& schema, RunSection& run);

/// Fills in every field whose 0 or empty text stands for a value derived from others.
void resolve(ModelSection& model);
void resolve(TrainSection& train);
void resolve(CheckpointSection& checkpoint, RunSection& run);
void resolve(RunConfig& config);

/// What the single ranges cannot see: how keys fit each other. Expects resolved sections; the first
/// problem, or none.
std::optional<Problem> validate(const ModelSection& model);
std::optional<Problem> validate(const TrainSection& train);
std::optional<Problem> validate(const OptimizerSection& optimizer);
std::optional<Problem> validate(const ParallelSection& parallel, const TrainSection& train);
std::optional<Problem> validate(const RunConfig& config);
/// What predicting the next token asks of the model: a classifier may be without it.
std::optional<Problem> validate_language_model(const ModelSection& model);
/// The same for a number of ranks: the mesh must fill the world, and every data-parallel rank needs
/// a lane. Layouts that are not available yet are refused.
std::optional<Problem> validate_world(const RunConfig& config, int64_t world);
/// Of a stage that only reads a model: what is of training alone is refused.
std::optional<Problem> validate_for_reading(const ParallelSection& parallel);
/// Its layout must fill the world,
std::optional<Problem> validate_ranks(const ParallelSection& parallel, int64_t world);
/// and the ranks be able to share the model.
std::optional<Problem> validate_shares(const ParallelSection& parallel, const ModelSection& model);

/// Bytes of a parameter's two moments.
int64_t moment_bytes(const OptimizerSection& optimizer);
/// Of these and its fp32 master weight: what checkpoints hold of it.
int64_t saved_bytes(const OptimizerSection& optimizer);

/// Samples in the step that starts when `consumed` samples are done.
int64_t global_batch_at(const TrainSection& train, int64_t consumed);

/// Optimizer steps of the whole run: train.steps, or as many as train.tokens needs (rounded up) at
/// `sequence_length` tokens a sample, batch ramp included.
int64_t total_steps(const TrainSection& train, int64_t sequence_length);

}  // namespace plinth::launch
