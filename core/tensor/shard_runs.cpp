// SPDX-License-Identifier: Apache-2.0
#include "core/tensor/shard_runs.h"

#include <algorithm>

#include "kernels/runtime/error.h"

namespace plinth::core {

Runs::Runs(const Shard& shard) : shard_(shard), at_(shard.begin) {
    // Dims that the box spans completely, and the one before them, are contiguous in the tensor.
    int64_t inner = 1;
    int dim = shard.global_shape.rank() - 1;
    while (dim >= 0) {
        row_ = inner * shard.local_shape[dim];
        row_offset_ = inner * shard.offset[dim];
        if (shard.local_shape[dim] != shard.global_shape[dim]) break;
        inner *= shard.global_shape[dim];
        --dim;
    }
    outer_dims_ = std::max(dim, 0);
}

int64_t Runs::global_of(int64_t row) const {
    int64_t stride = 1;
    for (int dim = outer_dims_; dim < shard_.global_shape.rank(); ++dim)
        stride *= shard_.global_shape[dim];
    int64_t start = row_offset_;
    for (int dim = outer_dims_ - 1; dim >= 0; --dim) {
        start += (row % shard_.local_shape[dim] + shard_.offset[dim]) * stride;
        row /= shard_.local_shape[dim];
        stride *= shard_.global_shape[dim];
    }
    return start;
}

ElementRows Runs::as_rows() const {
    if (outer_dims_ == 0) return {.first = row_offset_ + shard_.begin};
    CHECK(outer_dims_ == 1, "a box of shape {} in a tensor of {}: its rows are not equally spaced",
          shard_.local_shape.text(), shard_.global_shape.text());
    return {.first = global_of(shard_.begin / row_),
            .skipped = shard_.begin % row_,
            .width = row_,
            .stride = shard_.global_shape.elements() / shard_.global_shape[0]};
}

bool Runs::next(Run& run) {
    if (at_ >= shard_.end) return false;
    const int64_t in_row = at_ % row_;
    run.global = global_of(at_ / row_) + in_row;
    run.local = at_ - shard_.begin;
    run.count = std::min(row_ - in_row, shard_.end - at_);
    at_ += run.count;
    return true;
}

}  // namespace plinth::core
