// SPDX-License-Identifier: Apache-2.0
#include "core/ops/embedding.h"

#include "core/autograd/scope.h"
#include "kernels/embedding.h"

namespace plinth::core::ops {

namespace {

kernels::TableRows rows_of(const Parameter& table) {
    CHECK(table.boxes().size() == 1, "{}: a table of {} boxes", table.name(), table.boxes().size());
    const Shard& shard = table.boxes()[0];
    CHECK(shard.local_shape.rank() == 2 && shard.local_shape[1] == shard.global_shape[1],
          "{}: a table is cut by rows, not {} of {}", table.name(), shard.local_shape.text(),
          shard.global_shape.text());
    return {.first = shard.offset[0], .total = shard.global_shape[0]};
}

Shape with_width(const Shape& ids, int64_t width) {
    int64_t dims[max_dims];
    CHECK(ids.rank() < max_dims, "embedding: ids {} have too many dims", ids.text());
    std::copy(ids.dims().begin(), ids.dims().end(), dims);
    dims[ids.rank()] = width;
    return Shape(std::span<const int64_t>(dims, static_cast<size_t>(ids.rank()) + 1));
}

void add_table_gradient(const Tensor& dy, WeightUse table, const Tensor& ids) {
    table.parameter.accumulate_gradient(table.use, [&](View sum, bool accumulates) {
        kernels::embedding_backward(sum, dy.in(), ids.in(), rows_of(table.parameter), accumulates,
                                    Scope::current().stream());
    });
}

}  // namespace

Tensor embedding(const Tensor& ids, WeightUse table) {
    Scope& scope = Scope::current();
    const kernels::TableRows rows = rows_of(table.parameter);
    Tensor y = scope.empty(with_width(ids.shape(), table.parameter.shape()[1]), scope.compute());
    kernels::embedding_forward(y.out(), ids.in(), table.parameter.acquire(scope.compute()).in(), {},
                               {}, rows, scope.stream());
    table.parameter.release();
    if (scope.tape())
        scope.tape()->record(
            "embedding", {}, {&y}, {},
            [table, ids = SavedTensor(ids)](NodeGradients& gradients) {
                add_table_gradient(gradients.of_output(0), table, ids.get("embedding"));
            },
            /*has_parameters=*/true);
    return y;
}

Tensor embedding(const Tensor& ids, WeightUse table, const Tensor& positions,
                 WeightUse position_table) {
    Scope& scope = Scope::current();
    const Parameter& tokens = table.parameter;
    CHECK(tokens.is_whole() && position_table.parameter.is_whole(),
          "{}: positions are added to a whole table only", tokens.name());
    CHECK(position_table.parameter.shape()[1] == tokens.shape()[1], "{} {} beside {} {}",
          position_table.parameter.name(), position_table.parameter.shape().text(), tokens.name(),
          tokens.shape().text());
    Tensor y = scope.empty(with_width(ids.shape(), tokens.shape()[1]), scope.compute());
    // In this order on all compilers: it decides what ZeRO 3 gathers.
    const ConstView of_positions = position_table.parameter.acquire(scope.compute()).in();
    const ConstView of_tokens = table.parameter.acquire(scope.compute()).in();
    kernels::embedding_forward(y.out(), ids.in(), of_tokens, positions.in(), of_positions,
                               rows_of(tokens), scope.stream());
    table.parameter.release();
    position_table.parameter.release();
    if (scope.tape())
        scope.tape()->record(
            "embedding", {}, {&y}, {},
            [table, position_table, ids = SavedTensor(ids),
             positions = SavedTensor(positions)](NodeGradients& gradients) {
                const Tensor& dy = gradients.of_output(0);
                add_table_gradient(dy, table, ids.get("embedding"));
                add_table_gradient(dy, position_table, positions.get("embedding"));
            },
            /*has_parameters=*/true);
    return y;
}

}  // namespace plinth::core::ops
