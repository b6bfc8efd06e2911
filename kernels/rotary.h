// SPDX-License-Identifier: Apache-2.0
// Rotary positions (Su et al., "RoFormer", 2021) in the half-split form: elements j and j + K/2 of
// a head are a pair, turned by position * frequency[j]. B batch, T tokens, H query heads, G
// key/value heads, K head width (even).
#pragma once

#include <cmath>
#include <numbers>
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

inline double stretched_frequency(double frequency, const Rotary& options) {
    const double wavelength = 2.0 * std::numbers::pi / frequency;
    const double turns = static_cast<double>(options.original_positions) / wavelength;
    if (turns > options.high_freq_factor) return frequency;
    if (turns < options.low_freq_factor) return frequency / options.factor;
    const double kept =
        (turns - options.low_freq_factor) / (options.high_freq_factor - options.low_freq_factor);
    return (1.0 - kept) * frequency / options.factor + kept * frequency;
}

/// Radians a position, [K/2]. Host code of every device.
inline std::vector<double> rotary_frequencies(int64_t width, const Rotary& options) {
    std::vector<double> frequencies;
    for (int64_t j = 0; j < width / 2; ++j) {
        const double frequency =
            std::pow(options.theta, -2.0 * static_cast<double>(j) / static_cast<double>(width));
        frequencies.push_back(options.factor == 1.0 ? frequency
                                                    : stretched_frequency(frequency, options));
    }
    return frequencies;
}

/// y = qkv with query and key heads turned by the angles of positions, i32 [B, T]; `backward` turns
/// the other way, which is the gradient. y and qkv are [B, T, (H + 2 G) K], fp32 or bf16; y may be
/// qkv. Angles are computed in double, the rotation in fp32.
PLINTH_KERNEL(rotary, View y, ConstView qkv, ConstView positions, Rotary options, bool backward);

}  // namespace plinth::kernels
