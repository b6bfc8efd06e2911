// SPDX-License-Identifier: Apache-2.0
// The own kernels of attention on CUDA; attention_choice.h says when they serve whole sequences.
// Arguments are those of kernels/attention.h and kernels/attention_part.h, checked.
#pragma once

#include "kernels/attention_shape.h"
#include "kernels/cuda/queue.h"

namespace plinth::kernels::cuda {

/// Tiles of fp32 multiply-adds: every mask, both dtypes, head widths up to 256.
void tiled_attention_forward(View y, View log_sum, ConstView qkv, const AttentionShape& shape,
                             const AttentionMask& mask, const Attention& options, Queue& queue);
void tiled_attention_backward(View dqkv, ConstView dy, ConstView y, ConstView log_sum,
                              ConstView qkv, const AttentionShape& shape, const AttentionMask& mask,
                              const Attention& options, Queue& queue);
void tiled_attention_cached(View y, ConstView q, ConstView k, ConstView v, ConstView starts,
                            ConstView slopes, const AttentionShape& shape, const Attention& options,
                            Queue& queue);
void tiled_attention_part_forward(View y, View log_sum, ConstView q, ConstView k, ConstView v,
                                  const AttentionShape& shape, const AttentionMask& mask,
                                  const AttentionPart& part, const Attention& options,
                                  Queue& queue);
void tiled_attention_part_backward(View dq, View dk, View dv, ConstView dy, ConstView y,
                                   ConstView log_sum, ConstView q, ConstView k, ConstView v,
                                   const AttentionShape& shape, const AttentionMask& mask,
                                   const AttentionPart& part, const Attention& options,
                                   Queue& queue);

}  // namespace plinth::kernels::cuda
