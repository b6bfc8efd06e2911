// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "launch/session.h"

namespace plinth::launch {

/// What model-FLOPs utilisation divides by unless run.peak_flops is set, FLOP/s: the data sheet's
/// figure for a GPU that is known, else measured.
double peak_flops_of(Session& session, DType dtype, bool tf32);

/// The rate of a matrix product on this rank's device: the best of a few products of 512 x 768 x
/// 768 on the CPU's threads, about 10 ms in all; on a GPU each dim is eight times that.
double measured_peak_flops(Session& session, DType dtype);

}  // namespace plinth::launch
