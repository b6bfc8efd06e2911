// SPDX-License-Identifier: Apache-2.0
// Rotary positions (Su et al., "RoFormer", 2021) in the half-split form: elements j and j + K/2 of
// a head are a pair, turned by position * frequency[j]. B batch, T tokens, H query heads, G
// key/value heads, K head width (even).
#pragma once

#include <vector>

#include "kernels/kernel.h"

namespace plinth::kernels {

struct Rotary {
    int64_t heads = 1;
    int64_t kv_heads = 1;
    double theta = 10000.0;  ///< frequency[j] = theta^(-2j / K)
    /// Llama 3's stretching of long wavelengths to contexts `factor` times as long; 1 leaves the
    /// frequencies as they are. Wavelengths below original_positions / high_freq_factor stay, those
    /// above original_positions / low_freq_factor are stretched, between them it fades.
    double factor = 1.0;
    double low_freq_factor = 1.0;
    double high_freq_factor = 4.0;
    int64_t original_positions = 8192;
};

/// Radians a position, [K/2].
std::vector<double> rotary_frequencies(int64_t width, const Rotary& options);

/// y = qkv with query and key heads turned by the angles of positions, i32 [B, T]; `backward` turns
/// the other way, which is the gradient. y and qkv are [B, T, (H + 2 G) K], fp32 or bf16; y may be
/// qkv. Angles are computed in double, the rotation in fp32.
PLINTH_KERNEL(rotary, View y, ConstView qkv, ConstView positions, Rotary options, bool backward);

}  // namespace plinth::kernels
