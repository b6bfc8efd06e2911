// SPDX-License-Identifier: Apache-2.0
#include "parallel/tensor_parallel/planned_layout.h"

#include <algorithm>
#include <numeric>

namespace plinth::parallel {

using core::Parameter;
using core::Shard;
using core::nn::Placement;

namespace {

/// The box that dim `dim` of the tensor has in [begin, begin + count).
Shard box(const Shape& shape, int dim, int64_t begin, int64_t count) {
    int64_t offset[max_dims] = {}, local[max_dims] = {};
    std::copy(shape.dims().begin(), shape.dims().end(), local);
    offset[dim] = begin;
    local[dim] = count;
    const auto rank = static_cast<size_t>(shape.rank());
    Shard shard{.global_shape = shape,
                .offset = Shape(std::span<const int64_t>(offset, rank)),
                .local_shape = Shape(std::span<const int64_t>(local, rank))};
    shard.end = shard.local_shape.elements();
    return shard;
}

}  // namespace

RowShare row_share(int64_t extent, int rank, int size) {
    const int64_t each = extent / size, more = extent % size;
    return {each * rank + std::min<int64_t>(rank, more), each + (rank < more ? 1 : 0)};
}

PlannedLayout::PlannedLayout(core::nn::Plan plan, int rank, int size)
    : plan_(std::move(plan)), rank_(rank), size_(size) {
    CHECK(rank >= 0 && rank < size, "rank {} of {}", rank, size);
}

const core::nn::PlanRow& PlannedLayout::row_of(const std::string& path) const {
    const core::nn::PlanRow* row = find_row(plan_, path);
    CHECK(row != nullptr, "{}: has no row in the model's plan for tensor parallel ranks", path);
    return *row;
}

void PlannedLayout::place(Parameter& parameter, const std::string& path) const {
    if (size_ == 1) return;
    const core::nn::PlanRow& row = row_of(path);
    const Shape& shape = parameter.shape();
    const auto share = [&](int dim, int64_t begin, int64_t extent) {
        CHECK(extent % size_ == 0, "{}: {} is not divided among {} ranks", parameter.name(), extent,
              size_);
        return box(shape, dim, begin + extent / size_ * rank_, extent / size_);
    };
    switch (row.placement) {
        case Placement::alike:
            return;
        case Placement::replicated:
            return parameter.set_gradient_partial();
        case Placement::row:
            if (shape.rank() == 1) return parameter.set_gradient_partial();  // the bias
            return parameter.place({share(1, 0, shape[1])});
        case Placement::table:
        case Placement::head: {
            const RowShare rows = row_share(shape[0], rank_, size_);
            CHECK(rows.count > 0, "{}: {} rows for {} ranks", parameter.name(), shape[0], size_);
            return parameter.place({box(shape, 0, rows.begin, rows.count)},
                                   row_share(shape[0], 0, size_).count);
        }
        case Placement::column:
            break;
    }
    const std::vector<int64_t> parts =
        row.parts.empty() ? std::vector<int64_t>{shape[0]} : row.parts;
    CHECK(std::accumulate(parts.begin(), parts.end(), int64_t{0}) == shape[0],
          "{}: the plan's parts are not its {} rows", parameter.name(), shape[0]);
    std::vector<Shard> boxes;
    int64_t begin = 0;
    for (const int64_t part : parts) {
        boxes.push_back(share(0, begin, part));
        begin += part;
    }
    parameter.place(std::move(boxes));
}

}  // namespace plinth::parallel
