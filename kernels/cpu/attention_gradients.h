// SPDX-License-Identifier: Apache-2.0
// With P the weights, D = rowsum(dy * y) and S the scaled scores:
// dV = P^T dY, dS = P * (dY V^T - D), dQ = scale dS K, dK = dS^T (scale Q).
#pragma once

#include "kernels/attention_part.h"
#include "kernels/cpu/attention_blocks.h"

namespace plinth::kernels::cpu {

/// The backward pass of N queries over M keys. Where it adds, gradients are fp32 sums that get this
/// part's share; else they are set, in T.
template <typename T, bool adds>
struct AttentionGradients {
    using Gradient = std::conditional_t<adds, float, T>;

    TokenHeads<Gradient> dq, dk, dv;
    TokenHeads<const T> dy, y;
    ConstView log_sum;  ///< [B, H, N]
    TokenHeads<const T> q, k, v;
    AttentionShape shape;  ///< its tokens are the queries
    int64_t keys;
    AttentionPart part;
    AttentionMask mask;
    Attention options;

    void run(Stream& stream) const;

  private:
    int64_t padded() const { return padded_to_lanes(shape.width); }
    int64_t query_blocks() const { return (shape.tokens + block_queries - 1) / block_queries; }
    int64_t pieces() const;
    void run_piece(int64_t b, int64_t g, int64_t piece, float* dk_sum, float* dv_sum) const;
    void store_key_gradients(int64_t b, int64_t g, const float* dk_sum, const float* dv_sum) const;
};

}  // namespace plinth::kernels::cpu
