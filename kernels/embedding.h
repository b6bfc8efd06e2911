// SPDX-License-Identifier: Apache-2.0
// D width, V vocabulary.
#pragma once

#include "kernels/kernel.h"

namespace plinth::kernels {

/// The rows of a table that this rank holds. Ids of other ranks' rows give zeros, so that the sum
/// over the ranks is the whole table's result; ids outside [0, total) are data errors.
struct TableRows {
    int64_t first = 0;  ///< global id of the table's row 0
    int64_t total = 0;  ///< global V
};

/// y[rows, D] = table[ids - first, :] (+ position_table[positions, :]).
/// ids and positions are int32; the tables and y have one dtype (fp32 or bf16), the sum is rounded
/// once. The position pair may be left out. An id or position without a row is an error of kind
/// data.
PLINTH_KERNEL(embedding_forward, View y, ConstView ids, ConstView table, ConstView positions,
              ConstView position_table, TableRows rows);

/// dtable[local V, D] (fp32, overwritten, rows without an id become zero): row v is the sum of
/// dy[i, :] over all i with ids[i] = first + v, in the order of i. Where it `accumulates`, each
/// finished sum is added once to what is there, also one of no rows; without ids nothing is.
PLINTH_KERNEL(embedding_backward, View dtable, ConstView dy, ConstView ids, TableRows rows,
              bool accumulates);

}  // namespace plinth::kernels
