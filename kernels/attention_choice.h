// SPDX-License-Identifier: Apache-2.0
// Which implementation serves a call of attention on CUDA: a function of the call alone, so that it
// is tested where no device is.
#pragma once

#include "kernels/attention_shape.h"

namespace plinth::kernels {

enum class AttentionImplementation {
    tiled,        ///< own kernels without matrix units: every mask and width, fp32 too
    tensor_core,  ///< own kernels on matrix units: every mask, bf16
    cudnn,        ///< for what cuDNN's fused attention computes in the same way
};

/// How often each served on a stream, and how often cuDNN had no plan for what it was chosen for
/// (own kernels then served).
struct AttentionCounts {
    int64_t tiled = 0, tensor_core = 0, cudnn = 0, refused = 0;
    std::string refusal;  ///< the latest reason
};

/// Largest head width of cuDNN's fused attention, both passes, by compute capability.
inline int64_t largest_cudnn_width(int capability) {
    return capability / 10 == 9 ? 256 : capability >= 80 ? 128 : 0;
}

/// Of the own kernels on matrix units.
inline constexpr int64_t largest_tensor_core_width = 128;

/// `is_aligned`: all tensors begin at multiples of 16 bytes. `capability` is 90 for compute
/// capability 9.0.
inline AttentionImplementation choose_own_attention(const AttentionShape& shape, DType dtype,
                                                    bool is_aligned, int capability) {
    // Heads then begin at multiples of 16 bytes, which are copied at once.
    return dtype == DType::bf16 && is_aligned && shape.width % 8 == 0 &&
                   shape.width <= largest_tensor_core_width && capability >= 80
               ? AttentionImplementation::tensor_core
               : AttentionImplementation::tiled;
}

inline AttentionImplementation choose_attention(const AttentionShape& shape, DType dtype,
                                                const AttentionMask& mask, const Attention& options,
                                                bool is_aligned, int capability) {
    // Heads begin at multiples of 16 bytes, which cuDNN takes for granted.
    const bool fits = dtype == DType::bf16 && is_aligned && shape.width % 8 == 0 &&
                      shape.width <= largest_cudnn_width(capability);
    // cuDNN draws other random numbers, knows no documents, and computes ALiBi's slopes itself,
    // for whole models only; the values of `slopes` are on the device. Its backward pass does not
    // take a single token.
    const bool same = options.dropout == 0.0f && !mask.documents && !mask.slopes;
    const bool has_enough = shape.tokens > 1 && shape.batch > 0;
    return fits && same && has_enough ? AttentionImplementation::cudnn
                                      : choose_own_attention(shape, dtype, is_aligned, capability);
}

}  // namespace plinth::kernels
