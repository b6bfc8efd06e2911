// SPDX-License-Identifier: Apache-2.0
// How much scratch the larger calls of a GPU ask for, worked out without one: for plans of memory.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/attention_choice.h"
#include "kernels/attention_shape.h"

namespace plinth::kernels {

/// The most workspace that an algorithm of cuBLASLt may take: NVIDIA's advice for Hopper.
inline constexpr int64_t matmul_workspace_limit = int64_t{32} << 20;

/// Of products, of which those that add to what is there have that many elements at most, in fp32:
/// such a result is finished apart (in the reproducible mode), or algorithms are timed into another
/// one of its size.
inline int64_t matmul_scratch_bytes(int64_t added_elements) {
    return matmul_workspace_limit + 4 * added_elements;
}

/// A plan of cuDNN's attention that wants more is left to the own kernels.
inline constexpr int64_t cudnn_workspace_limit = int64_t{8} << 30;

/// Of the own kernels' backward pass: dy . y for each query.
inline int64_t tiled_attention_scratch_bytes(const AttentionShape& shape) {
    return 4 * shape.batch * shape.heads * shape.tokens;
}

/// Of cuDNN's backward pass; its forward pass takes next to nothing. What cuDNN 9.19 and its
/// frontend 1.32 say on descriptions of an A100, an H100 and a B200
/// (tests/gpu_graphs/attention.cpp); other versions may say other numbers. `capability` is 90 for
/// compute capability 9.0.
inline int64_t cudnn_attention_scratch_bytes(const AttentionShape& shape, bool is_deterministic,
                                             int capability) {
    const int64_t rows = shape.batch * shape.heads, queries = rows * shape.tokens;
    // dy . y for each query; of grouped queries dk and dv of each head come before their sums.
    int64_t bytes = 256 + 4 * queries;
    if (shape.group() > 1) bytes += 2 * 2 * queries * shape.width;
    if (is_deterministic && capability / 10 != 10) {  // in one order: the gradients of all scores
        const int64_t tokens = (shape.tokens + 127) / 128 * 128;
        return bytes + 2 * rows * tokens * tokens;
    }
    // dq is summed in fp32; before 9.0 in a second place too, whose rows are a multiple of eight.
    bytes += 4 * queries * shape.width;
    if (capability < 90) bytes += 4 * rows * ((shape.tokens + 7) / 8 * 8) * shape.width;
    return bytes;
}

/// Of the embedding's backward pass over that many tokens and a table [rows, width]: tokens and
/// their places, twice, the sort's own, where each row's begin, and sums over runs of 64 tokens.
inline int64_t embedding_scratch_bytes(int64_t tokens, int64_t rows, int64_t width) {
    return 4 * 4 * tokens + (8 * tokens + (int64_t{1} << 20)) + 4 * (rows + 1) +
           4 * 2 * ((tokens + 63) / 64) * width;
}

}  // namespace plinth::kernels
