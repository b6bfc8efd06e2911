// SPDX-License-Identifier: Apache-2.0
#include "launch/build.h"

#include <algorithm>

#include "core/models/transformer_plan.h"

#include "launch/session.h"
#include "launch/stage_parts.h"
#include "parallel/context_parallel/ring_attention.h"
#include "parallel/tensor_parallel/tensor_layout.h"

namespace plinth::launch {

namespace {

using core::models::TransformerConfig;

TransformerConfig::Positions positions_of(PositionKind kind) {
    switch (kind) {
        case PositionKind::learned:
            return TransformerConfig::Positions::learned;
        case PositionKind::rotary:
            return TransformerConfig::Positions::rotary;
        case PositionKind::alibi:
            return TransformerConfig::Positions::alibi;
        case PositionKind::none:
            break;
    }
    return TransformerConfig::Positions::none;
}

TransformerConfig::Activation activation_of(Activation kind) {
    switch (kind) {
        case Activation::gelu_tanh:
            return TransformerConfig::Activation::gelu_tanh;
        case Activation::gelu_erf:
            return TransformerConfig::Activation::gelu_erf;
        case Activation::swiglu:
            break;
    }
    return TransformerConfig::Activation::swiglu;
}

kernels::Rotary rotary_of(const ModelSection& model) {
    kernels::Rotary rotary{
        .heads = model.heads, .kv_heads = model.kv_heads, .theta = model.rope_theta};
    if (model.rope_scaling.kind == RopeScalingKind::none) return rotary;
    rotary.factor = model.rope_scaling.factor;
    rotary.low_freq_factor = model.rope_scaling.low_freq_factor;
    rotary.high_freq_factor = model.rope_scaling.high_freq_factor;
    rotary.original_positions = model.rope_scaling.original_positions;
    return rotary;
}

core::optim::Schedule::Kind schedule_kind(ScheduleKind kind) {
    switch (kind) {
        case ScheduleKind::cosine:
            return core::optim::Schedule::Kind::cosine;
        case ScheduleKind::linear:
            return core::optim::Schedule::Kind::linear;
        case ScheduleKind::wsd:
            return core::optim::Schedule::Kind::wsd;
        case ScheduleKind::constant:
            break;
    }
    return core::optim::Schedule::Kind::constant;
}

parallel::ScheduleKind pipeline_schedule_kind(PipelineSchedule kind) {
    switch (kind) {
        case PipelineSchedule::gpipe:
            return parallel::ScheduleKind::gpipe;
        case PipelineSchedule::interleaved:
            return parallel::ScheduleKind::interleaved;
        case PipelineSchedule::zero_bubble:
            return parallel::ScheduleKind::zero_bubble_h1;
        case PipelineSchedule::one_f_one_b:
            break;
    }
    return parallel::ScheduleKind::one_f_one_b;
}

}  // namespace

TransformerConfig transformer_config(const ModelSection& model) {
    TransformerConfig config{.vocab_size = model.vocab_size,
                             .vocab_multiple = model.vocab_multiple,
                             .layers = model.layers,
                             .width = model.width,
                             .heads = model.heads,
                             .kv_heads = model.kv_heads,
                             .head_width = model.head_width,
                             .ffn_width = model.ffn_width,
                             .max_positions = model.max_positions};
    config.norm = {.kind = model.norm == NormKind::layer ? core::nn::NormConfig::Kind::layer
                                                         : core::nn::NormConfig::Kind::rms,
                   .eps = model.norm_eps};
    config.positions = positions_of(model.positions);
    config.rotary = rotary_of(model);
    config.activation = activation_of(model.activation);
    config.tied_head = model.tied_head;
    config.attention_bias = model.attention_bias;
    config.qkv_bias = model.qkv_bias;
    config.mlp_bias = model.mlp_bias;
    config.qk_norm = model.qk_norm;
    config.embedding_norm = model.embedding_norm;
    config.causal = model.causal;
    config.attention_window = model.sliding_window;
    config.dropout = model.dropout;
    config.init_stddev = model.init_std;
    return config;
}

TransformerConfig transformer_config(const RunConfig& config) {
    TransformerConfig transformer = transformer_config(config.model);
    transformer.recompute = config.train.recompute == Recompute::full;
    transformer.z_loss = config.optimizer.z_loss;
    return transformer;
}

std::unique_ptr<core::models::Transformer> language_model(const RunConfig& config,
                                                          const parallel::Groups& groups) {
    const TransformerConfig transformer = transformer_config(config);
    const parallel::TensorLayout products(transformer_plan(transformer),
                                          groups.along(parallel::Axis::tensor));
    return std::make_unique<core::models::Transformer>(
        transformer, stage_parts(config, groups.coordinate(parallel::Axis::pipeline)),
        parallel::ContextLayout(products, groups.along(parallel::Axis::context)));
}

std::unique_ptr<core::models::Classifier> classifier(const RunConfig& config, int64_t classes,
                                                     const parallel::Groups& groups) {
    const TransformerConfig trunk = transformer_config(config);
    return std::make_unique<core::models::Classifier>(
        trunk, classes, stage_parts(config, groups.coordinate(parallel::Axis::pipeline)),
        parallel::TensorLayout(classifier_plan(trunk), groups.along(parallel::Axis::tensor)));
}

parallel::MeshConfig mesh_config(const ParallelSection& parallel) {
    return {.pipeline = static_cast<int>(parallel.pipeline),
            .data = static_cast<int>(parallel.data),
            .context = static_cast<int>(parallel.context),
            .tensor = static_cast<int>(parallel.tensor)};
}

parallel::ScheduleConfig schedule_config(const ParallelSection& parallel) {
    // One stage has nothing to schedule: a micro-batch's passes follow each other.
    if (parallel.pipeline == 1) return {};
    return {.kind = pipeline_schedule_kind(parallel.schedule),
            .stages = static_cast<int>(parallel.pipeline),
            .chunks = static_cast<int>(parallel.virtual_stages)};
}

core::optim::AdamWConfig adamw_config(const RunConfig& config) {
    const OptimizerSection& optimizer = config.optimizer;
    return {.beta1 = optimizer.beta1,
            .beta2 = optimizer.beta2,
            .eps = optimizer.eps,
            .weight_decay = optimizer.weight_decay,
            .moments = dtype_of(optimizer.moments),
            .seed = static_cast<uint64_t>(config.train.seed)};
}

core::optim::Schedule learning_rate_schedule(const OptimizerSection& optimizer,
                                             int64_t total_steps) {
    const bool is_tenth = optimizer.schedule == ScheduleKind::wsd && optimizer.decay_steps == 0;
    return {
        .kind = schedule_kind(optimizer.schedule),
        .peak = optimizer.lr,
        .minimum = optimizer.min_lr,
        .warmup_steps = optimizer.warmup_steps,
        .decay_steps = is_tenth ? std::max<int64_t>(1, total_steps / 10) : optimizer.decay_steps,
        .total_steps = total_steps};
}

}  // namespace plinth::launch
