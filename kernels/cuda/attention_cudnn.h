// SPDX-License-Identifier: Apache-2.0
// cuDNN's fused attention ("SDPA") over packed qkv by strides, without copies. The only file that
// compiles cuDNN's frontend is attention_cudnn.cpp.
#pragma once

#include <compare>
#include <string>

#include "kernels/attention_shape.h"
#include "kernels/cuda/queue.h"

namespace plinth::kernels::cuda {

/// What a plan of cuDNN depends on.
struct AttentionGraph {
    int64_t batch, tokens, heads, kv_heads, width;
    float scale;
    bool causal;
    int64_t window;  ///< as Attention's
    bool is_backward = false;
    bool is_deterministic =
        false;  ///< one order of sums in the backward pass, at the price of workspace

    auto operator<=>(const AttentionGraph&) const = default;
};

/// 90 for compute capability 9.0.
int capability_of(int device);

/// bf16 only. Why cuDNN has no plan for it, and nothing was done; empty: done.
const std::string& cudnn_attention_forward(View y, View log_sum, ConstView qkv,
                                           const AttentionShape& shape, const Attention& options,
                                           Queue& queue);
const std::string& cudnn_attention_backward(View dqkv, ConstView dy, ConstView y, ConstView log_sum,
                                            ConstView qkv, const AttentionShape& shape,
                                            const Attention& options, Queue& queue);

struct AttentionGraphCheck {
    std::string refusal;          ///< why cuDNN has no plan; empty if it has one
    int64_t workspace_bytes = 0;  ///< of that plan
};
/// What cuDNN makes of the graph on a device that is not here, from cuDNN's description of the
/// device in JSON.
AttentionGraphCheck check_attention_graph(const AttentionGraph& graph, const std::string& device,
                                          int capability);

}  // namespace plinth::kernels::cuda
