// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/tensor/tensor.h"

namespace plinth::core::ops {

/// What a micro-batch's loss is made of. The division by the global weight happens once, in the
/// optimizer.
struct Loss {
    Tensor sum;      ///< f64 [1]; its gradient is a f32 [1]
    Tensor weight;   ///< i64 [1]: tokens counted
    Tensor correct;  ///< i64 [1]: tokens whose target has the largest logit
};

struct CrossEntropyOptions {
    int64_t valid_columns = 0;  ///< vocabulary without padding
    double z_loss = 0.0;
};

/// Cross-entropy of logits[..., V] against targets i32 [...], summed; targets of -100 are ignored.
/// While recording, the backward pass overwrites the logits with their gradient: nothing else may
/// read them later.
Loss cross_entropy(const Tensor& logits, const Tensor& targets, const CrossEntropyOptions& options);

}  // namespace plinth::core::ops
