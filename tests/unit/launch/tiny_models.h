// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "launch/config/run_config.h"
#include "launch/engine.h"
#include "launch/layout_run.h"

// Models that train in a blink, one of each style, for tests of layouts.
namespace plinth::test {

using launch::ComputeType;
using launch::Engine;
using launch::LayoutDoubles;
using launch::NormKind;
using launch::PositionKind;
using launch::RunConfig;

/// Two blocks in more than five buckets, three rounds of lanes on one rank, dropout and clipping.
inline RunConfig tiny_gpt() {
    RunConfig config;
    config.model.vocab_size = 65;  // no even parts: they differ in their number of blocks
    config.model.layers = 2;
    config.model.width = 32;
    config.model.heads = 8;
    config.model.max_positions = 16;
    config.model.dropout = 0.1;
    config.data.sequence_length = 16;
    config.train.steps = 20;
    config.train.global_batch = 6;
    config.train.micro_batch = 2;
    config.train.lanes = 3;
    config.optimizer.lr = 1e-3;
    config.optimizer.min_lr = 1e-4;
    config.optimizer.clip = 0.5;
    config.optimizer.z_loss = 1e-4;
    config.parallel.bucket_bytes = 8192;
    launch::resolve(config);
    return config;
}

inline RunConfig tiny_llama() {
    RunConfig config = tiny_gpt();
    config.model.vocab_multiple = 8;
    config.model.kv_heads = 4;
    config.model.ffn_width = 56;
    config.model.norm = NormKind::rms;
    config.model.positions = PositionKind::rotary;
    config.model.activation = launch::Activation::swiglu;
    config.model.tied_head = config.model.attention_bias = config.model.qkv_bias =
        config.model.mlp_bias = false;
    config.model.qk_norm = true;
    return config;
}

inline RunConfig tiny_bloom() {
    RunConfig config = tiny_gpt();
    config.model.positions = PositionKind::alibi;
    config.model.embedding_norm = true;
    config.data.document_mask = true;
    return config;
}

/// Every gradient of a name is multiplied, on one rank or (rank < 0) on all.
inline LayoutDoubles scaling(const std::string& name, int only_rank, float factor) {
    return {.after_gradients = [=](int rank, Engine& engine) {
        if (only_rank >= 0 && rank != only_rank) return;
        for (const core::StateTensor& piece : engine.gradients())
            if (piece.name.find(name) != std::string::npos)
                for (int64_t i = 0; i < piece.shard.elements(); ++i)
                    static_cast<float*>(piece.data)[i] *= factor;
    }};
}

}  // namespace plinth::test
