// SPDX-License-Identifier: Apache-2.0
// Attention on tensor cores, by own kernels: every mask, dropout and grouped queries, with equal
// bits in every repeat and for every place in a batch. For what choose_attention
// (kernels/attention_choice.h) says fits: bf16, heads of a multiple of 8 columns up to 128, tensors
// and rows of them at multiples of 16 bytes, compute capability 8.0 and later. Arguments are those
// of kernels/attention.h and kernels/attention_part.h, checked.
#pragma once

#include "kernels/attention_shape.h"
#include "kernels/cuda/queue.h"

namespace plinth::kernels::cuda {

void tensor_core_attention_forward(View y, View log_sum, ConstView qkv, const AttentionShape& shape,
                                   const AttentionMask& mask, const Attention& options,
                                   Queue& queue);
void tensor_core_attention_backward(View dqkv, ConstView dy, ConstView y, ConstView log_sum,
                                    ConstView qkv, const AttentionShape& shape,
                                    const AttentionMask& mask, const Attention& options,
                                    Queue& queue);
void tensor_core_attention_part_forward(View y, View log_sum, ConstView q, ConstView k, ConstView v,
                                        const AttentionShape& shape, const AttentionMask& mask,
                                        const AttentionPart& part, const Attention& options,
                                        Queue& queue);
void tensor_core_attention_part_backward(View dq, View dk, View dv, ConstView dy, ConstView y,
                                         ConstView log_sum, ConstView q, ConstView k, ConstView v,
                                         const AttentionShape& shape, const AttentionMask& mask,
                                         const AttentionPart& part, const Attention& options,
                                         Queue& queue);

}  // namespace plinth::kernels::cuda
