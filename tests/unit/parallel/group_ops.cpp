// SPDX-License-Identifier: Apache-2.0
#include "parallel/collective_ops/group_ops.h"

#include <gtest/gtest.h>

#include <numeric>

#include "parallel/comm/threads.h"
#include "tests/support/altered_group.h"
#include "tests/support/op_fixture.h"
#include "tests/support/surroundings.h"

namespace plinth::test {
namespace {

using core::Tensor;
using parallel::Communicator;
using parallel::run_as_threads;

using Op = Tensor (*)(const Tensor&, Communicator&, const std::string&);

/// One pair: forward pass and adjoint. A tensor that all ranks hold alike counts once in an inner
/// product, others are parts of one long vector.
struct Pair {
    const char* name;
    Op op;
    bool x_alike, x_is_slice;  ///< of x: the same on every rank; T/t tokens
    bool y_alike, y_is_slice;
};

const std::vector<Pair> pairs = {
    {"copy_to_group", parallel::copy_to_group, true, false, false, false},
    {"sum_over_group", parallel::sum_over_group, false, false, true, false},
    {"gather_tokens", parallel::gather_tokens, false, true, false, false},
    {"scatter_sum_tokens", parallel::scatter_sum_tokens, false, false, false, true},
    {"gather_tokens_alike", parallel::gather_tokens_alike, false, true, true, false},
};

struct Passed {
    std::vector<double> x, y, dy, dx;
    bool operator==(const Passed&) const = default;
};

constexpr int64_t width = 5, tokens_of_one = 2;

Tensor make(Surroundings& here, const std::string& name, bool alike, bool is_slice, int64_t B,
            const Communicator& group, DType dtype) {
    const int64_t T = tokens_of_one * (is_slice ? 1 : group.size());
    const auto values =
        random_values(B * T * width, alike ? name : fmt::format("{} {}", name, group.rank()));
    Tensor tensor = Tensor::of(values, {B, T, width}, here.allocator);
    if (dtype == DType::f32) return tensor;
    std::vector<BFloat16> narrow(values.begin(), values.end());
    return Tensor::of(narrow, {B, T, width}, here.allocator);
}

/// Both passes on every rank, through what `wrap` makes of the group.
using Wrap = std::function<std::unique_ptr<Communicator>(Communicator&)>;
std::vector<Passed> pass(const Pair& pair, int ranks, int64_t B, DType dtype,
                         const Wrap& wrap = {}) {
    std::vector<Passed> all(static_cast<size_t>(ranks));
    run_as_threads(ranks, [&](Communicator& sound) {
        const auto wrapped = wrap ? wrap(sound) : nullptr;
        Communicator& group = wrapped ? *wrapped : sound;
        Surroundings here(1);
        core::Tape tape;
        const core::Scope scope(here.settings(&tape));
        Tensor x = make(here, "x", pair.x_alike, pair.x_is_slice, B, group, dtype);
        const Tensor dy = make(here, "dy", pair.y_alike, pair.y_is_slice, B, group, dtype);
        tape.watch(x);
        const Tensor y = pair.op(x, group, "here");
        const auto dx = tape.backward({{y, dy}}, {&x, 1});
        CHECK(y.shape() == dy.shape() && dx[0].shape() == x.shape(), "{} gave {} and {}", pair.name,
              y.shape().text(), dx[0].shape().text());
        all[static_cast<size_t>(group.rank())] = {to_doubles(x), to_doubles(y), to_doubles(dy),
                                                  to_doubles(dx[0])};
    });
    return all;
}

double inner(const std::vector<Passed>& all, std::vector<double> Passed::*a,
             std::vector<double> Passed::*b, bool alike) {
    double sum = 0.0;
    for (const Passed& rank : all) {
        for (size_t i = 0; i < (rank.*a).size(); ++i)
            sum += (rank.*a)[i] * (rank.*b)[i];
        if (alike) break;
    }
    return sum;
}

/// <f(x), dy> - <x, f*(dy)>.
double adjoint_gap(const Pair& pair, const std::vector<Passed>& all) {
    return inner(all, &Passed::y, &Passed::dy, pair.y_alike) -
           inner(all, &Passed::x, &Passed::dx, pair.x_alike);
}

TEST(GroupOps, EachBackwardPassIsTheAdjointOfItsForwardPass) {
    for (const Pair& pair : pairs)
        for (const int ranks : {1, 2, 3, 4})
            for (const int64_t B : {1, 3})
                for (const DType dtype : {DType::f32, DType::bf16}) {
                    const auto all = pass(pair, ranks, B, dtype);
                    const std::string what =
                        fmt::format("{}, {} ranks, B {}, {}", pair.name, ranks, B, name_of(dtype));
                    EXPECT_NEAR(adjoint_gap(pair, all), 0.0, dtype == DType::f32 ? 1e-5 : 0.2)
                        << what;
                    for (const Passed& rank : all) {
                        EXPECT_TRUE(!pair.y_alike || rank.y == all[0].y) << what;
                        EXPECT_TRUE(!pair.x_alike || rank.dx == all[0].dx) << what;
                    }
                }
}

/// Token t of sample b of a rank's [B, T, D].
double at(const std::vector<double>& values, int64_t T, int64_t b, int64_t t, int64_t d) {
    return values[static_cast<size_t>((b * T + t) * width + d)];
}

/// What the op must give, rank by rank: parts in their places, sums folded in rank order in fp32
/// and rounded once.
double expected_y(const Pair& pair, const std::vector<Passed>& all, DType dtype, int rank,
                  int64_t b, int64_t t, int64_t d) {
    const auto ranks = static_cast<int64_t>(all.size());
    const int64_t T = tokens_of_one * ranks;
    if (pair.x_alike) return at(all[static_cast<size_t>(rank)].x, T, b, t, d);
    if (pair.x_is_slice)
        return at(all[static_cast<size_t>(t / tokens_of_one)].x, tokens_of_one, b,
                  t % tokens_of_one, d);
    const int64_t token = pair.y_is_slice ? rank * tokens_of_one + t : t;
    float sum = 0.0f;
    for (size_t r = 0; r < all.size(); ++r) {
        const auto summand = static_cast<float>(at(all[r].x, T, b, token, d));
        sum = r == 0 ? summand : sum + summand;
    }
    return static_cast<double>(dtype == DType::f32 ? sum : static_cast<float>(BFloat16(sum)));
}

/// Elements that are not what the op must give.
int64_t wrong_elements(const Pair& pair, const std::vector<Passed>& all, int64_t B, DType dtype) {
    int64_t wrong = 0;
    for (int rank = 0; rank < static_cast<int>(all.size()); ++rank) {
        const auto& y = all[static_cast<size_t>(rank)].y;
        const int64_t T = static_cast<int64_t>(y.size()) / B / width;
        for (int64_t b = 0; b < B; ++b)
            for (int64_t t = 0; t < T; ++t)
                for (int64_t d = 0; d < width; ++d)
                    wrong += at(y, T, b, t, d) != expected_y(pair, all, dtype, rank, b, t, d);
    }
    return wrong;
}

TEST(GroupOps, PartsComeToTheirPlacesAndSumsAreFoldedInRankOrder) {
    for (const Pair& pair : pairs)
        for (const int ranks : {2, 3, 4})
            for (const int64_t B : {1, 3})
                for (const DType dtype : {DType::f32, DType::bf16})
                    EXPECT_EQ(wrong_elements(pair, pass(pair, ranks, B, dtype), B, dtype), 0)
                        << pair.name << ", " << ranks << " ranks, B " << B << ", "
                        << name_of(dtype);
}

TEST(GroupOpsMutants, DroppedAndSwappedPiecesShow) {
    for (const Pair& pair : pairs)
        for (const auto& alter : {dropping("here"), swapping("here")}) {
            const auto all = pass(pair, 3, 2, DType::f32, [&](Communicator& sound) {
                return std::make_unique<AlteredGroup>(sound, alter);
            });
            // Of a copy only the backward pass talks: the adjoint sees it.
            EXPECT_TRUE(wrong_elements(pair, all, 2, DType::f32) > 0 ||
                        std::abs(adjoint_gap(pair, all)) > 1e-3)
                << pair.name;
        }
}

TEST(GroupOps, KeptTokensAreGatheredAgainWhereOutputsAreMadeAgain) {
    run_as_threads(2, [](Communicator& group) {
        Surroundings here(1);
        core::Tape tape;
        core::Scope::Settings settings = here.settings(&tape);
        settings.remake = true;
        const core::Scope scope(settings);
        Tensor x = make(here, "x", false, true, 2, group, DType::f32);
        tape.watch(x);
        core::SavedTensor saved;
        std::vector<double> first;
        {
            const Tensor y = parallel::gather_tokens(x, group, "here");
            saved = core::SavedTensor(y);
            first = to_doubles(y);
        }
        const size_t without = here.allocator.use().in_use;
        CHECK(to_doubles(saved.get("test")) == first, "gathered again it is something else");
        CHECK(here.allocator.use().in_use == without, "the gathered tensor is kept");
    });
}

TEST(GroupOps, ColumnsLieSideBySide) {
    for (const std::vector<int64_t>& columns :
         std::vector<std::vector<int64_t>>{{3, 3}, {3, 3, 3}, {4, 3}, {2, 1, 1, 1}})
        for (const int64_t rows : {1, 4})
            run_as_threads(static_cast<int>(columns.size()), [&](Communicator& group) {
                Surroundings here(1);
                const core::Scope scope(here.settings());
                const auto rank = static_cast<size_t>(group.rank());
                const int64_t first =
                    std::accumulate(columns.begin(), columns.begin() + group.rank(), int64_t{0});
                std::vector<float> mine;
                for (int64_t row = 0; row < rows; ++row)
                    for (int64_t column = 0; column < columns[rank]; ++column)
                        mine.push_back(static_cast<float>(100 * row + first + column));
                const Tensor x = Tensor::of(mine, {rows, columns[rank]}, here.allocator);
                const auto y = to_doubles(parallel::gather_columns(x, columns, group, "here"));
                const size_t all = y.size() / static_cast<size_t>(rows);
                CHECK(all == static_cast<size_t>(
                                 std::accumulate(columns.begin(), columns.end(), int64_t{0})),
                      "{} columns", all);
                for (size_t i = 0; i < y.size(); ++i)
                    CHECK(y[i] == static_cast<double>(100 * (i / all) + i % all),
                          "element {} is {}", i, y[i]);
            });
}

}  // namespace
}  // namespace plinth::test
