// SPDX-License-Identifier: Apache-2.0
// Softmax cross-entropy in parts, so that a layer whose vocabulary is cut over ranks can combine
// the local results between them: `local` looks at this rank's columns; `combine` folds what all
// ranks found (nothing to do on one rank); `finish` makes losses; `backward` overwrites the logits
// with their gradients. There is never a second copy of the logits. N rows (tokens), V columns
// (vocabulary).
#pragma once

#include "kernels/kernel.h"

namespace plinth::kernels {

struct CrossEntropy {
    int64_t first_column = 0;  ///< global number of the first column held here
    /// Columns of the whole vocabulary; `local` and `backward` also take the number behind this
    /// rank's last one. Those behind are padding: no probability, no gradient.
    int64_t valid_columns = 0;
    int32_t ignored_target = -100;
    int64_t first_row = 0;  ///< number of the first row, for messages
    double z_loss = 0.0;    ///< adds z * log_sum^2 a token (PaLM, Chowdhery et al. 2022, section 5)
};

/// Per row of logits[N, V] (fp32 or bf16), all outputs fp32 [N]: the largest logit, sum of
/// exp(logit - largest), and the logit of targets[N] (i32), which is -infinity where the target is
/// ignored or lies in other columns.
PLINTH_KERNEL(cross_entropy_local, View largest, View sum, View target_logit, ConstView logits,
              ConstView targets, CrossEntropy options);

/// The same three of the whole vocabulary from those of R ranks, parts fp32 [R, 3, N]: largest, sum
/// and target logit of each. Sums are brought to the common maximum and folded in rank order.
PLINTH_KERNEL(cross_entropy_combine, View largest, View sum, View target_logit, ConstView parts);

/// From the combined values: log_sum[N] = largest + log(sum); entropy f64 [1] = sum over rows that
/// are not ignored of log_sum - target_logit, in row order; loss f64 [1] = that of log_sum -
/// target_logit + z log_sum^2, the same bits where z is 0; weight i64 [1] counts the rows; correct
/// i64 [1] those whose target has the largest logit. A target outside of [0, valid_columns) that is
/// not the ignored one is an error of kind data.
PLINTH_KERNEL(cross_entropy_finish, View loss, View entropy, View weight, View correct,
              View log_sum, ConstView largest, ConstView sum, ConstView target_logit,
              ConstView targets, CrossEntropy options);

/// In place: logits = dloss * ((1 + 2 z log_sum) softmax - onehot(target)), zero in ignored rows
/// and padding columns. dloss is a f32 [1].
PLINTH_KERNEL(cross_entropy_backward, View logits, ConstView dloss, ConstView log_sum,
              ConstView targets, CrossEntropy options);

}  // namespace plinth::kernels
