// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <limits>

#include "kernels/kernel.h"
#include "kernels/runtime/step_key.h"
#include "kernels/simd.h"

namespace plinth::kernels {

/// Numbers, in its whole sample, of the elements of a part: a rank may hold one run, or two.
struct ElementNumbers {
    int64_t first = 0;                                   ///< of element 0; the others follow
    int64_t turn = std::numeric_limits<int64_t>::max();  ///< element of the part that begins run 2
    int64_t skipped = 0;                                 ///< numbers between the runs

    PLINTH_HOST_DEVICE int64_t operator[](int64_t element) const {
        return first + element + (element >= turn ? skipped : 0);
    }
    bool is_sound() const { return first >= 0 && turn > 0 && skipped >= 0; }
};

struct Dropout {
    float probability = 0.0f;  ///< of losing an element, in [0, 1); the others grow by 1 / (1 - p)
    StepKey key;               ///< of (seed, place in the model, step)
    ElementNumbers numbers = {};
};

/// y[B, ...] = residual + mask * x / (1 - p); the residual may be left out. Whether element i of
/// global sample samples[b] stays is a function of (key, sample, numbers[i]): no mask is stored,
/// and the backward pass is the same kernel over dy. y may be x.
PLINTH_KERNEL(dropout, View y, ConstView residual, ConstView x, ConstView samples, Dropout options);

}  // namespace plinth::kernels
