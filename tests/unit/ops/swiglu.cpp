// SPDX-License-Identifier: Apache-2.0
#include "core/ops/swiglu.h"

#include <cmath>

#include "kernels/swiglu.h"
#include "tests/support/cases/rows.h"
#include "tests/support/op_fixture.h"
#include "tests/support/same_bits.h"

namespace plinth::test {
namespace {

class SwigluTest : public OpTest {};

std::vector<double> naive_swiglu(const std::vector<float>& x, const RowsCase& c) {
    std::vector<double> y;
    for (int64_t r = 0; r < c.rows; ++r)
        for (int64_t i = 0; i < c.width; ++i) {
            const double gate = static_cast<double>(x[static_cast<size_t>(r * 2 * c.width + i)]);
            const double up =
                static_cast<double>(x[static_cast<size_t>(r * 2 * c.width + c.width + i)]);
            y.push_back(gate / (1.0 + std::exp(-gate)) * up);
        }
    return y;
}

TEST_F(SwigluTest, EqualsTheFormulaInDouble) {
    for (const RowsCase& c : rows_test_cases)
        for (DType dtype : {DType::f32, DType::bf16}) {
            auto x = random_values(c.rows * 2 * c.width, "x");
            for (float& value : x)
                value *= 6.0f;
            if (dtype == DType::bf16) x = rounded_to_bf16(x);
            const auto y = run([](const auto& in) { return core::ops::swiglu(in[0]); },
                               {tensor(x, {c.rows, 2 * c.width}, dtype)});
            expect_close(y, naive_swiglu(x, c), dtype == DType::f32 ? 1e-6 : 4e-3, c.name);
        }
}

TEST_F(SwigluTest, ExtremeGatesStayFinite) {
    const auto y = run([](const auto& in) { return core::ops::swiglu(in[0]); },
                       {tensor({-200.0f, 200.0f, 1.0f, 1.0f}, {1, 4})});
    EXPECT_NEAR(y[0], 0.0, 1e-30);
    EXPECT_NEAR(y[1], 200.0, 1e-4);
}

TEST_F(SwigluTest, GradientsMatchFiniteDifferences) {
    for (const RowsCase& c : rows_test_cases)
        expect_gradients_match_differences(
            [](const auto& in) { return core::ops::swiglu(in[0]); },
            {tensor(random_values(c.rows * 2 * c.width, "x"), {c.rows, 2 * c.width})});
}

TEST_F(SwigluTest, Bf16GradientsFollowFp32) {
    expect_bf16_gradients_follow_fp32([](const auto& in) { return core::ops::swiglu(in[0]); },
                                      {tensor(random_values(7 * 2 * 19, "x"), {7, 38})}, 6e-3);
}

TEST_F(SwigluTest, ThreadsDoNotChangeBits) {
    constexpr int64_t rows = 1031, width = 67;
    for (const DType dtype : {DType::f32, DType::bf16}) {
        const auto x = tensor(random_values(rows * 2 * width, "x"), {rows, 2 * width}, dtype);
        const auto dy = tensor(random_values(rows * width, "dy"), {rows, width}, dtype);
        expect_threads_do_not_change_bits([&](Stream& stream) {
            core::Tensor y = core::Tensor::empty({rows, width}, dtype, *allocator_);
            core::Tensor dx = core::Tensor::empty({rows, 2 * width}, dtype, *allocator_);
            kernels::swiglu_forward(y.out(), x.in(), stream);
            kernels::swiglu_backward(dx.out(), dy.in(), x.in(), stream);
            auto all = to_doubles(y);
            const auto more = to_doubles(dx);
            all.insert(all.end(), more.begin(), more.end());
            return all;
        });
    }
}

}  // namespace
}  // namespace plinth::test
