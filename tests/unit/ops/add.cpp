// SPDX-License-Identifier: Apache-2.0
#include "core/ops/add.h"

#include "kernels/add.h"
#include "tests/support/cases/rows.h"
#include "tests/support/op_fixture.h"
#include "tests/support/same_bits.h"

namespace plinth::test {
namespace {

class AddTest : public OpTest {};

TEST_F(AddTest, AddsEveryElement) {
    for (const RowsCase& c : rows_test_cases)
        for (DType dtype : {DType::f32, DType::bf16}) {
            const auto a = rounded_to_bf16(random_values(c.rows * c.width, "a"));
            const auto b = rounded_to_bf16(random_values(c.rows * c.width, "b"));
            std::vector<double> expected;
            for (size_t i = 0; i < a.size(); ++i)
                expected.push_back(static_cast<double>(a[i]) + static_cast<double>(b[i]));
            const auto y =
                run([](const auto& in) { return core::ops::add(in[0], in[1]); },
                    {tensor(a, {c.rows, c.width}, dtype), tensor(b, {c.rows, c.width}, dtype)});
            expect_close(y, expected, dtype == DType::f32 ? 1e-7 : 4e-3, c.name);
        }
}

TEST_F(AddTest, GradientsMatchFiniteDifferences) {
    expect_gradients_match_differences(
        [](const auto& in) { return core::ops::add(in[0], in[1]); },
        {tensor(random_values(77, "a"), {7, 11}), tensor(random_values(77, "b"), {7, 11})});
}

TEST_F(AddTest, ATensorUsedTwiceGetsTheSumOfItsGradients) {
    expect_gradients_match_differences(
        [](const auto& in) {
            const auto twice = core::ops::add(in[0], in[0]);
            return core::ops::add(twice, in[0]);
        },
        {tensor(random_values(77, "a"), {7, 11})});
}

TEST_F(AddTest, ABiasIsAddedToEveryRow) {
    for (const RowsCase& c : rows_test_cases)
        for (DType dtype : {DType::f32, DType::bf16}) {
            parameters_.clear();
            core::Parameter& bias = parameter("bias", {c.width});
            const auto x = rounded_to_bf16(random_values(c.rows * c.width, "x"));
            std::vector<double> expected;
            for (size_t i = 0; i < x.size(); ++i)
                expected.push_back(
                    static_cast<double>(x[i]) +
                    static_cast<double>(
                        bias.master().values<float>()[i % static_cast<size_t>(c.width)]));
            const auto y = run([&](const auto& in) { return core::ops::add_bias(in[0], bias); },
                               {tensor(x, {c.rows, c.width}, dtype)});
            expect_close(y, expected, dtype == DType::f32 ? 1e-7 : 4e-3, c.name);
        }
}

TEST_F(AddTest, GradientsOfABiasMatchFiniteDifferences) {
    core::Parameter& bias = parameter("bias", {11});
    expect_gradients_match_differences(
        [&](const auto& in) { return core::ops::add_bias(in[0], bias); },
        {tensor(random_values(77, "x"), {7, 11})});
}

TEST_F(AddTest, ScaleAndFillTouchEveryElementAndNoOther) {
    for (DType dtype : {DType::f32, DType::bf16})
        for (int64_t n : {1, 31, 32769}) {
            core::Tensor y = tensor(rounded_to_bf16(random_values(n, "y")), {n}, dtype);
            auto expected = to_doubles(y);
            kernels::scale(y.out(), y.in(), 0.5f, stream_);
            for (double& value : expected)
                value *= 0.5;
            expect_close(to_doubles(y), expected, 0.0, "scale");
            kernels::fill(y.out(), 3.0f, stream_);
            expect_close(to_doubles(y), std::vector<double>(static_cast<size_t>(n), 3.0), 0.0,
                         "fill");
        }
}

TEST_F(AddTest, ThreadsDoNotChangeBits) {
    constexpr int64_t rows = 1031, width = 97;
    for (const DType dtype : {DType::f32, DType::bf16}) {
        const auto a = tensor(random_values(rows * width, "a"), {rows, width}, dtype);
        const auto b = tensor(random_values(rows * width, "b"), {rows, width}, dtype);
        const auto row = tensor(random_values(width, "row"), {width});
        expect_threads_do_not_change_bits([&](Stream& stream) {
            std::vector<double> all;
            core::Tensor y = core::Tensor::empty({rows, width}, dtype, *allocator_);
            const auto append = [&] {
                const auto values = to_doubles(y);
                all.insert(all.end(), values.begin(), values.end());
            };
            kernels::add(y.out(), a.in(), b.in(), stream);
            append();
            kernels::add_row(y.out(), a.in(), row.in(), stream);
            append();
            kernels::scale(y.out(), a.in(), 0.7f, stream);
            append();
            kernels::fill(y.out(), 3.0f, stream);
            append();
            return all;
        });
    }
}

}  // namespace
}  // namespace plinth::test
