// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>

#include "core/ops/matmul.h"

namespace plinth::core::ops {

/// y[..., D] = table[ids, :] in the scope's compute dtype; ids are int32 [...]. Where the table's
/// shard holds only some rows, ids of the others give zeros: the sum over the shards is the result.
/// An id outside of the global table is an error of kind data that names it.
/// Backward: dtable = sums of dy over the places of each id, in order.
Tensor embedding(const Tensor& ids, WeightUse table);

/// The same plus learned positions, in one pass: y = table[ids, :] + position_table[positions, :].
/// positions are int32 with the shape of ids. The position table must be whole, and so must the
/// token table, else each shard would add the positions.
Tensor embedding(const Tensor& ids, WeightUse table, const Tensor& positions,
                 WeightUse position_table);

}  // namespace plinth::core::ops
