// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/kernel.h"
#include "kernels/runtime/philox.h"

namespace plinth::kernels {

struct Dropout {
    float probability = 0.0f;  ///< of losing an element, in [0, 1); the others grow by 1 / (1 - p)
    RandomKey key;             ///< of (seed, place in the model, step)
    /// Number, in its whole sample, of the first element given of each: a rank may hold a part.
    int64_t first = 0;
};

/// y[B, ...] = residual + mask * x / (1 - p); the residual may be left out. Whether element i of
/// global sample samples[b] stays is a function of (key, sample, first + i): no mask is stored, and
/// the backward pass is the same kernel over dy. y may be x.
PLINTH_KERNEL(dropout, View y, ConstView residual, ConstView x, ConstView samples, Dropout options);

}  // namespace plinth::kernels
