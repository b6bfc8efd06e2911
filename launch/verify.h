// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "launch/config/stage_config.h"
#include "launch/layout_compare.h"

namespace plinth::launch {

/// `plinth verify`: trains a few steps in each layout, all ranks as threads of this process, and
/// compares. Data, pipeline and ZeRO must not change one bit; tensor and context parallel agree
/// with one rank within verify.tolerance, and among themselves bit for bit. Returns 0, or 1 if a
/// layout differs or none could be tried.
int verify(const VerifyConfig& config);

}  // namespace plinth::launch
