// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "core/tensor/shard.h"
#include "kernels/element_rows.h"

namespace plinth::core {

/// Consecutive elements of the global tensor (flat row-major numbers) and where the shard keeps
/// them.
struct Run {
    int64_t global = 0;
    int64_t local = 0;  ///< element number inside the shard's buffer
    int64_t count = 0;
};

/// Walks the runs of a shard in rising order; a whole tensor, or a flat range of it, is one run.
class Runs {
  public:
    explicit Runs(const Shard& shard);
    /// False at the end.
    bool next(Run& run);
    /// The numbers of all elements, for kernels. Only for boxes whose rows are equally spaced in
    /// the tensor: all of two dims.
    ElementRows as_rows() const;

  private:
    int64_t global_of(int64_t row) const;

    Shard shard_;
    int outer_dims_ = 0;      ///< leading dims that step from row to row
    int64_t row_ = 1;         ///< elements of the box that follow each other in the global tensor
    int64_t row_offset_ = 0;  ///< of a row's first element, from the inner dims
    int64_t at_ = 0;          ///< next element, in the box's row-major order
};

}  // namespace plinth::core
