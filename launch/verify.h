// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "launch/config/stage_config.h"
#include "launch/layout_run.h"

namespace plinth::launch {

/// How a layout compares with the one it must equal.
struct LayoutVerdict {
    bool agrees = false;
    std::string text;  ///< "equal bits", or how far apart, or what differs first
};

/// Bit for bit: losses, norms, the first gradient, weights and moments.
LayoutVerdict compare_bits(const LayoutRecord& found, const LayoutRecord& expected);
/// Within rounding: every loss and norm within `tolerance` of its size, each tensor of the first
/// gradient within `tolerance` of the whole gradient's L2 norm. Weights are not compared:
/// where a gradient is zero in exact arithmetic (the bias of keys), AdamW makes steps of rounding.
LayoutVerdict compare_within(const LayoutRecord& found, const LayoutRecord& expected,
                             double tolerance);

/// `plinth verify`: trains a few steps in each layout, all ranks as threads of this process, and
/// compares. Data, pipeline and ZeRO must not change one bit; tensor and context parallel agree
/// with one rank within verify.tolerance, and among themselves bit for bit. Returns 0, or 1 if a
/// layout differs or none could be tried.
int verify(const VerifyConfig& config);

}  // namespace plinth::launch
