// SPDX-License-Identifier: Apache-2.0
#include "core/ops/embedding.h"

#include <cstring>

#include "kernels/embedding.h"
#include "tests/support/cases/rows.h"
#include "tests/support/expect_error.h"
#include "tests/support/op_fixture.h"
#include "tests/support/same_bits.h"

namespace plinth::test {
namespace {

using core::Tensor;

std::vector<int32_t> random_ids(int64_t n, int64_t below, const std::string& name) {
    std::vector<int32_t> ids;
    for (float value : random_values(n, name))
        ids.push_back(static_cast<int32_t>((value + 1.0f) * 0.5f * static_cast<float>(below)));
    return ids;
}

class EmbeddingTest : public OpTest {
  protected:
    void compare_with_lookup(DType dtype) {
        compute_ = dtype;
        for (const RowsCase& c : rows_test_cases) {
            SCOPED_TRACE(c.name);
            const auto ids = random_ids(c.rows, 11, "ids"), places = random_ids(c.rows, 5, "at");
            core::Parameter& table = parameter("table", {11, c.width});
            core::Parameter& positions = parameter("positions", {5, c.width});
            auto rows = table.master().values<float>(), at = positions.master().values<float>();
            if (dtype == DType::bf16) rows = rounded_to_bf16(rows), at = rounded_to_bf16(at);
            std::vector<double> alone, both;
            for (size_t i = 0; i < ids.size(); ++i)
                for (int64_t d = 0; d < c.width; ++d) {
                    const auto row =
                        static_cast<double>(rows[static_cast<size_t>(ids[i] * c.width + d)]);
                    alone.push_back(row);
                    both.push_back(row + static_cast<double>(
                                             at[static_cast<size_t>(places[i] * c.width + d)]));
                }
            const auto of_ids = [&](const auto& in) {
                return core::ops::embedding(in[0], {table});
            };
            EXPECT_EQ(run(of_ids, {indices(ids, {c.rows})}), alone);
            expect_close(run(
                             [&](const auto& in) {
                                 return core::ops::embedding(in[0], {table}, in[1], {positions});
                             },
                             {indices(ids, {c.rows}), indices(places, {c.rows})}),
                         both, dtype == DType::f32 ? 1e-7 : 4e-3, c.name);
        }
    }
};

TEST_F(EmbeddingTest, Fp32IsTheLookupPlusThePositions) {
    compare_with_lookup(DType::f32);
}
TEST_F(EmbeddingTest, Bf16IsTheLookupOfTheRoundedTables) {
    compare_with_lookup(DType::bf16);
}

TEST_F(EmbeddingTest, GradientsMatchFiniteDifferencesWithRepeatedAndUnusedIds) {
    core::Parameter& table = parameter("table", {9, 5});
    core::Parameter& positions = parameter("positions", {4, 5});
    expect_gradients_match_differences(
        [&](const auto& in) { return core::ops::embedding(in[0], {table}, in[1], {positions}); },
        {indices({8, 0, 3, 3, 3, 8}, {2, 3}), indices({0, 1, 2, 0, 1, 2}, {2, 3})});
}

TEST_F(EmbeddingTest, GradientOfEachRowIsTheFoldInOrderOfItsPlaces) {
    constexpr int64_t rows = 301, width = 13, vocabulary = 7;
    auto ids = random_ids(rows, vocabulary, "ids");
    for (int32_t& id : ids)
        id = id == 4 ? 5 : id;  // row 4 gets nothing
    const auto dy = random_values(rows * width, "dy");
    std::vector<float> expected(static_cast<size_t>(vocabulary * width), 0.0f);
    for (size_t i = 0; i < ids.size(); ++i)
        for (size_t d = 0; d < width; ++d)
            expected[static_cast<size_t>(ids[i]) * width + d] += dy[i * width + d];
    const Tensor in = tensor(dy, {rows, width}), at = indices(ids, {rows});
    const auto backward = [&](Stream& stream) {
        Tensor dtable = Tensor::empty({vocabulary, width}, DType::f32, *allocator_);
        kernels::embedding_backward(dtable.out(), in.in(), at.in(), {0, vocabulary}, false, stream);
        return dtable.values<float>();
    };
    EXPECT_EQ(backward(stream_), expected);  // a mutant that folds in another order must differ:
    std::vector<float> reversed(expected.size(), 0.0f);
    for (size_t i = ids.size(); i-- > 0;)
        for (size_t d = 0; d < width; ++d)
            reversed[static_cast<size_t>(ids[i]) * width + d] += dy[i * width + d];
    EXPECT_NE(reversed, expected);
    expect_threads_do_not_change_bits(backward);
}

TEST_F(EmbeddingTest, AccumulatingAddsTheFinishedGradientOnce) {
    constexpr int64_t rows = 301, width = 13, vocabulary = 7;
    auto ids = random_ids(rows, vocabulary, "ids");
    for (int32_t& id : ids)
        id = id == 4 ? 5 : id;  // row 4 gets nothing
    const Tensor dy = tensor(random_values(rows * width, "dy"), {rows, width});
    const Tensor at = indices(ids, {rows});
    auto before = random_values(vocabulary * width, "before");
    before[4 * width] = -0.0f;  // and a zero is added to it
    Tensor finished = Tensor::empty({vocabulary, width}, DType::f32, *allocator_);
    kernels::embedding_backward(finished.out(), dy.in(), at.in(), {0, vocabulary}, false, stream_);
    std::vector<float> expected = before, folded = before;
    for (size_t i = 0; i < expected.size(); ++i)
        expected[i] += finished.data<float>()[i];
    const auto backward = [&](Stream& stream) {
        Tensor sum = tensor(before, {vocabulary, width});
        kernels::embedding_backward(sum.out(), dy.in(), at.in(), {0, vocabulary}, true, stream);
        return sum.values<float>();
    };
    const auto is_expected = [&](const std::vector<float>& values) {
        return std::memcmp(values.data(), expected.data(), expected.size() * sizeof(float)) == 0;
    };
    EXPECT_TRUE(is_expected(backward(stream_)));
    expect_threads_do_not_change_bits(backward);
    // A mutant that adds row by row to what is there.
    for (size_t i = 0; i < ids.size(); ++i)
        for (size_t d = 0; d < width; ++d)
            folded[static_cast<size_t>(ids[i]) * width + d] += dy.in().as<float>()[i * width + d];
    EXPECT_FALSE(is_expected(folded));
}

TEST_F(EmbeddingTest, ShardsOfATableAddUpToTheWholeTable) {
    constexpr int64_t vocabulary = 10, width = 3, cut = 4;
    const auto ids = random_ids(23, vocabulary, "ids");
    const auto rows = random_values(vocabulary * width, "table");
    const Tensor at = indices(ids, {23}), whole = tensor(rows, {vocabulary, width});
    const auto lookup = [&](const Tensor& table, int64_t first) {
        Tensor y = Tensor::empty({23, width}, DType::f32, *allocator_);
        kernels::embedding_forward(y.out(), at.in(), table.in(), {}, {}, {first, vocabulary},
                                   stream_);
        return y.values<float>();
    };
    auto sum = lookup(whole.rows(0, cut), 0);
    const auto upper = lookup(whole.rows(cut, vocabulary), cut);
    for (size_t i = 0; i < sum.size(); ++i)
        sum[i] += upper[i];
    EXPECT_EQ(sum, lookup(whole, 0));

    const Tensor dy = tensor(random_values(23 * width, "dy"), {23, width});
    Tensor dtable = Tensor::empty({vocabulary, width}, DType::f32, *allocator_);
    Tensor part = Tensor::empty({vocabulary - cut, width}, DType::f32, *allocator_);
    kernels::embedding_backward(dtable.out(), dy.in(), at.in(), {0, vocabulary}, false, stream_);
    kernels::embedding_backward(part.out(), dy.in(), at.in(), {cut, vocabulary}, false, stream_);
    EXPECT_EQ(part.values<float>(), Tensor(dtable.rows(cut, vocabulary)).values<float>());
}

TEST_F(EmbeddingTest, AnIdOutsideOfTheTableIsADataErrorThatNamesIt) {
    core::Parameter& table = parameter("table", {9, 5});
    const auto look_up = [&](std::vector<int32_t> ids) {
        const auto n = static_cast<int64_t>(ids.size());
        run([&](const auto& in) { return core::ops::embedding(in[0], {table}); },
            {indices(ids, {n})});
    };
    expect_error(
        ErrorKind::data,
        [&] {
            look_up({0, 9});
        },
        "token id 9", "table of 9 rows");
    expect_error(
        ErrorKind::data, [&] { look_up({-1}); }, "token id -1");
    core::Parameter& positions = parameter("positions", {2, 5});
    expect_error(
        ErrorKind::data,
        [&] {
            run(
                [&](const auto& in) {
                    return core::ops::embedding(in[0], {table}, in[0], {positions});
                },
                {indices({0, 1, 2}, {3})});
        },
        "position 2", "table of 2 rows");
}

}  // namespace
}  // namespace plinth::test
