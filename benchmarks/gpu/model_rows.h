// SPDX-License-Identifier: Apache-2.0
// What the kernels of a training step do in one micro-batch of a model.
// N tokens = B samples of T, D width, F ffn, H heads, G key-value heads, K head width, V
// vocabulary.
#pragma once

#include <string>
#include <vector>

#include "benchmarks/gpu/device_table.h"

namespace plinth::test {

struct ModelSizes {
    std::string name;
    int64_t B, T, D, F, H, G, K, V;
    bool gated;  ///< SwiGLU and RMS norm, else GELU and layer norm
    int64_t tokens() const { return B * T; }
    int64_t qkv_columns() const { return (H + 2 * G) * K; }
    int64_t head_tokens = 8192;      ///< the head and cross-entropy work on chunks of tokens
    int64_t parameters = 124 << 20;  ///< that the optimizer updates in one call
};

/// GPT-2 124M at 65,536 tokens, Llama 8B at 8,192, GPT-2 1.5B and Llama 1B at 16,384.
inline const ModelSizes gpt2_small = {.name = "gpt2",
                                      .B = 64,
                                      .T = 1024,
                                      .D = 768,
                                      .F = 3072,
                                      .H = 12,
                                      .G = 12,
                                      .K = 64,
                                      .V = 50304,
                                      .gated = false};
inline const ModelSizes llama_8b = {.name = "llama8b",
                                    .B = 2,
                                    .T = 4096,
                                    .D = 4096,
                                    .F = 14336,
                                    .H = 32,
                                    .G = 8,
                                    .K = 128,
                                    .V = 128256,
                                    .gated = true};

inline const ModelSizes gpt2_xl = {.name = "gpt2xl",
                                   .B = 16,
                                   .T = 1024,
                                   .D = 1600,
                                   .F = 6400,
                                   .H = 25,
                                   .G = 25,
                                   .K = 64,
                                   .V = 50304,
                                   .gated = false};
inline const ModelSizes llama_1b = {.name = "llama1b",
                                    .B = 8,
                                    .T = 2048,
                                    .D = 2048,
                                    .F = 8192,
                                    .H = 32,
                                    .G = 8,
                                    .K = 64,
                                    .V = 128256,
                                    .gated = true};

/// Both kinds of model at sizes that the emulated device computes in a second.
inline const ModelSizes tiny_gpt = {.name = "gpt",
                                    .B = 2,
                                    .T = 64,
                                    .D = 64,
                                    .F = 128,
                                    .H = 2,
                                    .G = 2,
                                    .K = 32,
                                    .V = 256,
                                    .gated = false,
                                    .head_tokens = 64,
                                    .parameters = 4096};
inline const ModelSizes tiny_llama = {.name = "llama",
                                      .B = 2,
                                      .T = 64,
                                      .D = 64,
                                      .F = 128,
                                      .H = 4,
                                      .G = 2,
                                      .K = 16,
                                      .V = 256,
                                      .gated = true,
                                      .head_tokens = 64,
                                      .parameters = 4096};

std::vector<TableRow> ceiling_rows(bool is_tiny = false);
/// Forward, input gradient and weight gradient of each linear layer and of the head.
std::vector<TableRow> product_rows(const ModelSizes& model);
/// The MLP's first product with 8-bit operands, and making one of them.
std::vector<TableRow> fp8_rows(const ModelSizes& model);
std::vector<TableRow> attention_rows(const ModelSizes& model);
std::vector<TableRow> memory_bound_rows(const ModelSizes& model);
/// What a rank computes whose group shares a sequence or the vocabulary.
std::vector<TableRow> shared_rows(const ModelSizes& model);

}  // namespace plinth::test
