// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "core/tensor/shard.h"

/// Pure arithmetic between shards of one tensor: which elements of one layout are which elements of
/// another.
namespace plinth::checkpoints {

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
    explicit Runs(const core::Shard& shard);
    /// False at the end.
    bool next(Run& run);

  private:
    int64_t global_of(int64_t row) const;

    core::Shard shard_;
    int outer_dims_ = 0;      ///< leading dims that step from row to row
    int64_t row_ = 1;         ///< elements of the box that follow each other in the global tensor
    int64_t row_offset_ = 0;  ///< of a row's first element, from the inner dims
    int64_t at_ = 0;          ///< next element, in the box's row-major order
};

/// Elements [from, from + count) of one shard's buffer are [to, to + count) of another's.
struct Overlap {
    int64_t from = 0;
    int64_t to = 0;
    int64_t count = 0;
};

/// What two shards of one tensor have in common, in rising order; linear in their runs.
std::vector<Overlap> overlaps(const core::Shard& from, const core::Shard& to);

/// Empty if the shards cover each element of `shape` exactly once, else what is wrong
/// ("element 17 is covered twice").
std::string coverage_problem(const Shape& shape, std::span<const core::Shard> shards);

}  // namespace plinth::checkpoints
