// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/tensor/tensor.h"

namespace plinth::core::ops {

/// Where a batch's labels stand, when each sample has one.
struct LabelledRows {
    Tensor rows;    ///< i32 [B], row b T + t of the flattened batch
    Tensor labels;  ///< i32 [B]
};

/// For targets i32 [B, T]: the first one of each sample that is not -100. A sample without one is
/// an error of kind data.
LabelledRows find_labelled_rows(const Tensor& targets);

/// y[R, D] = the rows of x[..., D], flattened to [N, D], that `rows` (i32 [R], ascending) names.
/// Backward: zeros for the other rows.
Tensor select_rows(const Tensor& x, const Tensor& rows);

}  // namespace plinth::core::ops
