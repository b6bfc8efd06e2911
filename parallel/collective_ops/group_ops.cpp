// SPDX-License-Identifier: Apache-2.0
#include "parallel/collective_ops/group_ops.h"

#include <numeric>
#include <vector>

#include "core/autograd/scope.h"
#include "core/tensor/shapes.h"
#include "kernels/add.h"
#include "kernels/cast.h"
#include "parallel/comm/view_bytes.h"

namespace plinth::parallel {

using core::NodeGradients;
using core::SavedTensor;
using core::Scope;
using core::Tensor;

namespace {

/// The ranks' parts of a tensor [outer, ranks x piece]: rank r has columns [r piece, (r+1) piece).
/// With one outer row they lie one after the other, else they travel by way of a copy in which
/// they do.
struct Pieces {
    int64_t ranks, outer, piece;

    Shape together() const { return {outer, ranks * piece}; }
    Shape apart() const { return {ranks, outer, piece}; }
    bool are_apart() const { return outer == 1; }

    /// Between the two orders; `to_apart` gives the direction.
    void reorder(View to, ConstView from, bool to_apart) const {
        Stream& stream = Scope::current().stream();
        const size_t size = size_of(from.dtype);
        for (int64_t o = 0; o < outer; ++o)
            for (int64_t r = 0; r < ranks; ++r) {
                const auto in_rows = static_cast<size_t>((o * ranks + r) * piece) * size;
                const auto in_parts = static_cast<size_t>((r * outer + o) * piece) * size;
                kernels::cast(
                    View(static_cast<std::byte*>(to.data) + (to_apart ? in_parts : in_rows),
                         to.dtype, {piece}, to.device),
                    ConstView(
                        static_cast<const std::byte*>(from.data) + (to_apart ? in_rows : in_parts),
                        from.dtype, {piece}, from.device),
                    stream);
            }
    }
};

/// [outer, ranks x piece] from each rank's [outer, piece].
Tensor gathered(const Tensor& x, int64_t outer, Communicator& group, const std::string& label) {
    Scope& scope = Scope::current();
    const Pieces pieces{group.size(), outer, outer == 0 ? 0 : x.elements() / outer};
    Tensor parts = scope.empty(pieces.apart(), x.dtype());
    std::vector<Bytes> places;
    for (int64_t r = 0; r < pieces.ranks; ++r) {
        Tensor part = parts.rows(r, r + 1);
        places.push_back(bytes_of(part.out()));
    }
    group.all_gather(label, bytes_of(x.in()), places);
    if (pieces.are_apart()) return parts.reshape(pieces.together());
    Tensor whole = scope.empty(pieces.together(), x.dtype());
    pieces.reorder(whole.out(), parts.in(), /*to_apart=*/false);
    return whole;
}

/// In fp32, in rank order, rounded once.
Tensor folded(const std::vector<Tensor>& summands) {
    Scope& scope = Scope::current();
    const Shape& shape = summands[0].shape();
    Tensor sum = scope.empty(shape, DType::f32);
    kernels::cast(sum.out(), summands[0].in(), scope.stream());
    for (size_t r = 1; r < summands.size(); ++r) {
        Tensor wide = summands[r];
        if (wide.dtype() != DType::f32) {
            wide = scope.empty(shape, DType::f32);
            kernels::cast(wide.out(), summands[r].in(), scope.stream());
        }
        kernels::add(sum.out(), sum.in(), wide.in(), scope.stream());
    }
    if (summands[0].dtype() == DType::f32) return sum;
    Tensor rounded = scope.empty(shape, summands[0].dtype());
    kernels::cast(rounded.out(), sum.in(), scope.stream());
    return rounded;
}

/// This rank's [outer, piece] of the sum of the ranks' [outer, ranks x piece].
Tensor scattered_sum(const Tensor& x, int64_t outer, Communicator& group,
                     const std::string& label) {
    Scope& scope = Scope::current();
    const int64_t ranks = group.size(), row = outer == 0 ? 0 : x.elements() / outer;
    CHECK(row % ranks == 0 && x.is_contiguous(), "{}: {} is not divided among {} ranks", label,
          x.shape().text(), ranks);
    const Pieces pieces{ranks, outer, row / ranks};
    Tensor mine = x.reshape(pieces.are_apart() ? pieces.apart() : x.shape());
    if (!pieces.are_apart()) {
        mine = scope.empty(pieces.apart(), x.dtype());
        pieces.reorder(mine.out(), x.in(), /*to_apart=*/true);
    }
    Tensor received = scope.empty(pieces.apart(), x.dtype());
    std::vector<ConstBytes> sends;
    std::vector<Bytes> receives;
    for (int64_t r = 0; r < ranks; ++r) {
        sends.push_back(bytes_of(mine.rows(r, r + 1).in()));
        Tensor place = received.rows(r, r + 1);
        receives.push_back(r == group.rank() ? Bytes{} : bytes_of(place.out()));
    }
    group.all_to_all(label, sends, receives);
    std::vector<Tensor> summands;
    for (int64_t r = 0; r < ranks; ++r)
        summands.push_back((r == group.rank() ? mine : received).rows(r, r + 1));
    return folded(summands).reshape({outer, pieces.piece});
}

Tensor sum_of(const Tensor& x, Communicator& group, const std::string& label) {
    Scope& scope = Scope::current();
    Tensor sum = scope.empty(x.shape(), DType::f32);
    kernels::cast(sum.out(), x.in(), scope.stream());
    const auto elements = static_cast<size_t>(sum.elements());
    group.all_reduce(label, std::span(sum.out().as<float>(), elements), Reduce::sum);
    if (x.dtype() == DType::f32) return sum;
    Tensor rounded = scope.empty(x.shape(), x.dtype());
    kernels::cast(rounded.out(), sum.in(), scope.stream());
    return rounded;
}

/// This rank's tokens of [B, T, D].
Tensor own_tokens(const Tensor& x, Communicator& group) {
    const Pieces pieces{group.size(), x.dim(0), x.dim(1) / group.size() * x.dim(2)};
    Tensor parts = Scope::current().empty(pieces.apart(), x.dtype());
    pieces.reorder(parts.out(), x.in(), /*to_apart=*/true);
    return parts.rows(group.rank(), group.rank() + 1);
}

Shape with_tokens(const Tensor& x, int64_t tokens) {
    return {x.dim(0), tokens, x.dim(2)};
}

void check_tokens(const char* op, const Tensor& x, const std::string& label) {
    CHECK(x.shape().rank() == 3 && x.is_contiguous(), "{} of {}: {} is not [B, T, D]", op, label,
          x.shape().text());
}

}  // namespace

Tensor copy_to_group(const Tensor& x, Communicator& group, const std::string& label) {
    Tensor y = x.detach();
    if (core::Tape* tape = Scope::current().tape())
        tape->record("copy_to_group", {&x}, {&y}, [&group, label](NodeGradients& gradients) {
            gradients.set_input(0, sum_of(gradients.of_output(0), group, label + " backward"));
        });
    return y;
}

Tensor sum_over_group(const Tensor& x, Communicator& group, const std::string& label) {
    Tensor y = sum_of(x, group, label);
    if (core::Tape* tape = Scope::current().tape())
        tape->record("sum_over_group", {&x}, {&y}, [](NodeGradients& gradients) {
            gradients.set_input(0, gradients.of_output(0));
        });
    return y;
}

namespace {

Tensor all_tokens(const Tensor& x, Communicator& group, const std::string& label) {
    check_tokens("gather_tokens", x, label);
    return gathered(x, x.dim(0), group, label).reshape(with_tokens(x, x.dim(1) * group.size()));
}

Tensor sum_of_tokens(const Tensor& x, Communicator& group, const std::string& label) {
    check_tokens("scatter_sum_tokens", x, label);
    return scattered_sum(x, x.dim(0), group, label)
        .reshape(with_tokens(x, x.dim(1) / group.size()));
}

}  // namespace

Tensor gather_tokens(const Tensor& x, Communicator& group, const std::string& label) {
    Scope& scope = Scope::current();
    Tensor y = all_tokens(x, group, label);
    if (!scope.tape()) return y;
    if (scope.remakes())
        y.set_recipe([x = SavedTensor(x), &group, label] {
            return all_tokens(x.get("gather_tokens"), group, label + " again");
        });
    scope.tape()->record("gather_tokens", {&x}, {&y}, [&group, label](NodeGradients& gradients) {
        gradients.set_input(0, sum_of_tokens(gradients.of_output(0), group, label + " backward"));
    });
    return y;
}

Tensor scatter_sum_tokens(const Tensor& x, Communicator& group, const std::string& label) {
    Tensor y = sum_of_tokens(x, group, label);
    if (core::Tape* tape = Scope::current().tape())
        tape->record("scatter_sum_tokens", {&x}, {&y}, [&group, label](NodeGradients& gradients) {
            gradients.set_input(0, all_tokens(gradients.of_output(0), group, label + " backward"));
        });
    return y;
}

Tensor gather_tokens_alike(const Tensor& x, Communicator& group, const std::string& label) {
    Tensor y = all_tokens(x, group, label);
    if (core::Tape* tape = Scope::current().tape())
        tape->record("gather_tokens_alike", {&x}, {&y},
                     [&group, shape = x.shape()](NodeGradients& gradients) {
                         gradients.set_input(
                             0, own_tokens(gradients.of_output(0), group).reshape(shape));
                     });
    return y;
}

Tensor gather_columns(const Tensor& x, std::span<const int64_t> columns, Communicator& group,
                      const std::string& label) {
    Scope& scope = Scope::current();
    CHECK(scope.tape() == nullptr, "{}: gathered columns have no gradient", label);
    CHECK(columns.size() == static_cast<size_t>(group.size()) &&
              x.dim(-1) == columns[static_cast<size_t>(group.rank())],
          "{}: {} on rank {}, of {} parts", label, x.shape().text(), group.rank(), columns.size());
    const int64_t rows = x.shape().rows(),
                  all = std::accumulate(columns.begin(), columns.end(), int64_t{0});
    std::vector<Tensor> parts;
    std::vector<Bytes> places;
    for (const int64_t count : columns) {
        parts.push_back(scope.empty({rows, count}, x.dtype()));
        places.push_back(bytes_of(parts.back().out()));
    }
    group.all_gather(label, bytes_of(x.in()), places);
    Tensor whole = scope.empty({rows, all}, x.dtype());
    for (int64_t row = 0; row < rows; ++row) {
        auto* to = static_cast<std::byte*>(whole.out().data) +
                   static_cast<size_t>(row * all) * size_of(x.dtype());
        for (const Tensor& part : parts) {
            const ConstView from = part.rows(row, row + 1).in();
            kernels::cast(View(to, x.dtype(), from.shape, x.device()), from, scope.stream());
            to += from.bytes();
        }
    }
    return whole.reshape(core::with_last_dim(x.shape(), all));
}

}  // namespace plinth::parallel
