// SPDX-License-Identifier: Apache-2.0
#include "core/ops/select_rows.h"

#include "core/ops/matmul.h"
#include "kernels/select_rows.h"
#include "tests/support/cases/rows.h"
#include "tests/support/expect_error.h"
#include "tests/support/op_fixture.h"
#include "tests/support/same_bits.h"

namespace plinth::test {
namespace {

using core::Tensor;

constexpr int32_t none = -100;

class SelectRowsTest : public OpTest {
  protected:
    /// Every third row from the second on.
    static std::vector<int32_t> rows_of(const RowsCase& c) {
        std::vector<int32_t> rows;
        for (int64_t r = c.rows > 1 ? 1 : 0; r < c.rows; r += 3)
            rows.push_back(static_cast<int32_t>(r));
        return rows;
    }

    void compare_with_copies(DType dtype) {
        compute_ = dtype;
        for (const RowsCase& c : rows_test_cases) {
            SCOPED_TRACE(c.name);
            const auto rows = rows_of(c);
            const Tensor at = indices(rows, {static_cast<int64_t>(rows.size())});
            const Tensor x = tensor(random_values(c.rows * c.width, "x"), {c.rows, c.width}, dtype);
            const auto values = to_doubles(x);
            std::vector<double> expected, scattered(values.size(), 0.0);
            for (int32_t r : rows)
                for (int64_t d = 0; d < c.width; ++d) {
                    const auto i = static_cast<size_t>(r * c.width + d);
                    expected.push_back(values[i]);
                    scattered[i] = values[i];
                }
            const auto select = [](const auto& in) { return core::ops::select_rows(in[0], in[1]); };
            EXPECT_EQ(run(select, {x, at}), expected);

            const Tensor dy = tensor(std::vector<float>(expected.begin(), expected.end()),
                                     {at.elements(), c.width}, dtype);
            Tensor dx = Tensor::empty({c.rows, c.width}, dtype, *allocator_);
            kernels::select_rows_backward(dx.out(), dy.in(), at.in(), stream_);
            EXPECT_EQ(to_doubles(dx), scattered);
        }
    }
};

TEST_F(SelectRowsTest, Fp32CopiesTheRowsAndScattersTheirGradients) {
    compare_with_copies(DType::f32);
}
TEST_F(SelectRowsTest, Bf16CopiesTheRowsAndScattersTheirGradients) {
    compare_with_copies(DType::bf16);
}

TEST_F(SelectRowsTest, GradientsMatchFiniteDifferences) {
    core::Parameter& weight = parameter("weight", {3, 5});
    expect_gradients_match_differences(
        [&](const auto& in) {
            return core::ops::linear(core::ops::select_rows(in[0], in[1]), {weight});
        },
        {tensor(random_values(2 * 4 * 5, "x"), {2, 4, 5}), indices({2, 7}, {2})});
}

TEST_F(SelectRowsTest, EachSampleHasOneLabelledRow) {
    const Tensor targets =
        indices({none, none, 1, none, 0, none, none, none, none, 7, 3, none}, {3, 4});
    std::vector<int32_t> rows, labels;
    run(
        [&](const auto& in) {
            const auto found = core::ops::find_labelled_rows(in[0]);
            rows = found.rows.template values<int32_t>();
            labels = found.labels.template values<int32_t>();
            return tensor({0.0f}, {1});
        },
        {targets});
    EXPECT_EQ(rows, (std::vector<int32_t>{2, 4, 9}));
    EXPECT_EQ(labels, (std::vector<int32_t>{1, 0, 7}));
}

TEST_F(SelectRowsTest, RefusesSamplesWithoutLabelAndRowsThatDoNotAscend) {
    const auto find = [&](const auto& in) { return core::ops::find_labelled_rows(in[0]).rows; };
    expect_error(
        ErrorKind::data,
        [&] {
            run(find, {indices({none, 1, none, none}, {2, 2})});
        },
        "sample 1", "no label");
    const Tensor x = tensor(random_values(12, "x"), {4, 3});
    const auto select = [](const auto& in) { return core::ops::select_rows(in[0], in[1]); };
    expect_error(
        ErrorKind::internal,
        [&] {
            run(select, {x, indices({2, 2}, {2})});
        },
        "does not ascend");
    expect_error(
        ErrorKind::internal,
        [&] {
            run(select, {x, indices({1, 4}, {2})});
        },
        "within 4 rows");
}

TEST_F(SelectRowsTest, ThreadsDoNotChangeBits) {
    const RowsCase c{"", 4093, 67};
    const auto rows = rows_of(c);
    const Tensor at = indices(rows, {static_cast<int64_t>(rows.size())});
    const Tensor x = tensor(random_values(c.rows * c.width, "x"), {c.rows, c.width});
    expect_threads_do_not_change_bits([&](Stream& stream) {
        Tensor y = Tensor::empty({at.elements(), c.width}, DType::f32, *allocator_);
        Tensor dx = Tensor::empty(x.shape(), DType::f32, *allocator_);
        kernels::select_rows_forward(y.out(), x.in(), at.in(), stream);
        kernels::select_rows_backward(dx.out(), y.in(), at.in(), stream);
        auto all = y.values<float>();
        const auto more = dx.values<float>();
        all.insert(all.end(), more.begin(), more.end());
        return all;
    });
}

}  // namespace
}  // namespace plinth::test
