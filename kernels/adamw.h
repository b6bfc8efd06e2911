// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/kernel.h"

namespace plinth::kernels {

/// One AdamW update. The bias corrections 1 - beta^t are the caller's, in double.
struct AdamW {
    double learning_rate = 0.0;
    double beta1 = 0.9;
    double beta2 = 0.95;
    double eps = 1e-8;
    double weight_decay = 0.0;
    double bias_correction1 = 1.0;  ///< 1 - beta1^t
    double bias_correction2 = 1.0;  ///< 1 - beta2^t
    double gradient_scale = 1.0;    ///< clip factor / global weight, applied to the gradient first
    bool skip = false;              ///< a non-finite step: nothing changes
};

/// In place over n fp32 elements (Loshchilov and Hutter 2019): g = scale * gradient;
/// m = beta1 m + (1 - beta1) g; v = beta2 v + (1 - beta2) g^2;
/// w = w (1 - lr decay) - lr (m / correction1) / (sqrt(v / correction2) + eps).
PLINTH_KERNEL(adamw, View weight, View first_moment, View second_moment, ConstView gradient,
              AdamW options);

}  // namespace plinth::kernels
