// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "launch/layout_run.h"

namespace plinth::launch {

/// How a layout compares with the one it must equal.
struct LayoutVerdict {
    bool agrees = false;
    std::string text;  ///< "equal bits", or how far apart, or what differs first
};

/// Weights hold a step of 1e-3 beside a 1 to some 1e-5 of the step, and AdamW divides gradients by
/// their size, also small ones.
inline constexpr double state_factor = 10;

/// What compare_within allows.
struct Bounds {
    constexpr Bounds(double tolerance)  // NOLINT: one number says it all, but for 8-bit products
        : Bounds(tolerance, tolerance, state_factor * tolerance) {}
    constexpr Bounds(double losses_and_norms, double a_gradient, double a_state)
        : sums(losses_and_norms), gradient(a_gradient), state(a_state) {}

    double sums;      ///< losses and gradient norms
    double gradient;  ///< a tensor of the first gradient
    double state;     ///< a tensor of moments, or of what the weights have changed
};

/// Bit for bit: losses, norms, the first gradient, weights and moments.
LayoutVerdict compare_bits(const LayoutRecord& found, const LayoutRecord& expected);

/// Within rounding: the first weights bit for bit; losses, norms, the first gradient and what the
/// updates made of it within `bounds`. Tensor by tensor,
///
/// | what                             | as a share of                                            |
/// |----------------------------------|----------------------------------------------------------|
/// | every loss, every gradient norm  | itself                                                   |
/// | the first gradient               | its L2 norm, at least `least_share` of the whole one's   |
/// | mean gradient                    | the same                                                 |
/// | mean squared gradient            | its L2 norm, at least `least_share`^2 of the whole one's |
/// | change of the weights by the run | its L2 norm, both weighed by the root of the mean        |
/// |                                  | squared gradient                                         |
///
/// The weighing: where a gradient is zero in exact arithmetic (the bias of keys), AdamW divides
/// rounding by rounding, and a whole step leads nowhere that a loss could see. Root mean square
/// gradient times step is what a step changes in the loss. Weights that have had no gradient at all
/// (only decay) must be equal bit for bit.
LayoutVerdict compare_within(const LayoutRecord& found, const LayoutRecord& expected,
                             const Bounds& bounds);

/// A tensor with less than this share of all gradient is compared as if it had that much: its
/// rounding comes from sums of larger numbers.
inline constexpr double least_share = 1e-3;
/// What `plinth verify` allows; docs/numerics.md has what was seen.
inline constexpr double fp32_tolerance = 1e-5, bf16_tolerance = 2e-2;
/// With moments in bf16 a sum that differs in its last bits may round one up that one rank rounds
/// down, by up to 2^-7 of itself; the updates carry that on into losses.
inline constexpr Bounds rounded_moments_bounds{10 * fp32_tolerance, fp32_tolerance, 2e-2};
/// With 8-bit products losses and norms are held to bf16's bound. But a shard has another scale
/// than the whole, so that each element of a tensor is rounded elsewhere, by up to an eighth of it.
inline constexpr Bounds fp8_bounds{bf16_tolerance, 0.2, 0.4};

}  // namespace plinth::launch
