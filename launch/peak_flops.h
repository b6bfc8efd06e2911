// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "launch/session.h"

namespace plinth::launch {

/// The rate of a matrix product on this rank's threads, FLOP/s: what model-FLOPs utilisation
/// divides by unless run.peak_flops is set. The best of a few products of 512 x 768 x 768, about 10
/// ms in all.
double measured_peak_flops(Session& session, DType dtype);

}  // namespace plinth::launch
