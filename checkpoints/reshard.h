// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "core/tensor/shard_runs.h"

/// Pure arithmetic between shards of one tensor: which elements of one layout are which elements of
/// another.
namespace plinth::checkpoints {

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
