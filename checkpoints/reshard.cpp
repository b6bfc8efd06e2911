// SPDX-License-Identifier: Apache-2.0
#include "checkpoints/reshard.h"

#include <algorithm>

namespace plinth::checkpoints {

Runs::Runs(const core::Shard& shard) : shard_(shard), at_(shard.begin) {
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

bool Runs::next(Run& run) {
    if (at_ >= shard_.end) return false;
    const int64_t in_row = at_ % row_;
    run.global = global_of(at_ / row_) + in_row;
    run.local = at_ - shard_.begin;
    run.count = std::min(row_ - in_row, shard_.end - at_);
    at_ += run.count;
    return true;
}

std::vector<Overlap> overlaps(const core::Shard& from, const core::Shard& to) {
    std::vector<Overlap> common;
    Runs from_runs(from), to_runs(to);
    Run a, b;
    bool more = from_runs.next(a) && to_runs.next(b);
    while (more) {
        const int64_t begin = std::max(a.global, b.global);
        const int64_t a_end = a.global + a.count, b_end = b.global + b.count;
        const int64_t end = std::min(a_end, b_end);
        if (begin < end)
            common.push_back({a.local + begin - a.global, b.local + begin - b.global, end - begin});
        more = a_end <= b_end ? from_runs.next(a) : to_runs.next(b);
    }
    return common;
}

std::string coverage_problem(const Shape& shape, std::span<const core::Shard> shards) {
    std::vector<Run> runs;
    for (const core::Shard& shard : shards) {
        Runs walk(shard);
        for (Run run; walk.next(run);)
            runs.push_back(run);
    }
    std::sort(runs.begin(), runs.end(),
              [](const Run& a, const Run& b) { return a.global < b.global; });
    int64_t covered = 0;
    for (const Run& run : runs) {
        if (run.global > covered) break;
        if (run.global < covered) return fmt::format("element {} is covered twice", run.global);
        covered += run.count;
    }
    if (covered < shape.elements()) return fmt::format("element {} is missing", covered);
    return {};
}

}  // namespace plinth::checkpoints
