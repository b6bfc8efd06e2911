// SPDX-License-Identifier: Apache-2.0
#include "core/ops/gelu.h"

#include <cmath>
#include <limits>

#include "tests/support/cases/rows.h"
#include "tests/support/op_fixture.h"
#include "tests/support/same_bits.h"

namespace plinth::test {
namespace {

using core::Tensor;
using kernels::Gelu;

double naive_gelu(double x, Gelu form) {
    if (form == Gelu::erf) return 0.5 * x * std::erfc(-x / std::sqrt(2.0));
    return 0.5 * x * (1.0 + std::tanh(std::sqrt(2.0 / M_PI) * (x + 0.044715 * x * x * x)));
}

class GeluTest : public OpTest, public ::testing::WithParamInterface<kernels::Gelu> {
  protected:
    Function op() const {
        return [form = GetParam()](const auto& in) { return core::ops::gelu(in[0], form); };
    }
};

TEST_P(GeluTest, EqualsTheFormulaInDouble) {
    for (const RowsCase& c : rows_test_cases)
        for (DType dtype : {DType::f32, DType::bf16}) {
            auto x = random_values(c.rows * c.width, "x");
            for (float& value : x)
                value *= 8.0f;
            if (dtype == DType::bf16) x = rounded_to_bf16(x);
            std::vector<double> expected;
            for (float value : x)
                expected.push_back(naive_gelu(static_cast<double>(value), GetParam()));
            expect_close(run(op(), {tensor(x, {c.rows, c.width}, dtype)}), expected,
                         dtype == DType::f32 ? 5e-7 : 4e-3, c.name);
        }
}

TEST_P(GeluTest, TheTwoFormsDiffer) {
    const Gelu other = GetParam() == Gelu::erf ? Gelu::tanh : Gelu::erf;
    const auto y = run(op(), {tensor({2.0f}, {1})});
    // At 2 the forms differ by 9.8e-5, which the tolerance above of 5e-7 would notice.
    EXPECT_GT(std::abs(y[0] - naive_gelu(2.0, other)), 5e-5);
}

TEST_P(GeluTest, GradientsMatchFiniteDifferences) {
    for (const RowsCase& c : rows_test_cases)
        expect_gradients_match_differences(
            op(), {tensor(random_values(c.rows * c.width, "x"), {c.rows, c.width})});
}

TEST_P(GeluTest, SlopeMatchesTheFormulaOverTheWholeRange) {
    for (double x = -12.0; x <= 12.0; x += 0.01) {
        const auto at = static_cast<float>(x);
        const auto parts =
            GetParam() == Gelu::erf ? kernels::gelu_erf_parts(at) : kernels::gelu_tanh_parts(at);
        const double h = 1e-4, middle = static_cast<double>(at);
        const double slope =
            (naive_gelu(middle + h, GetParam()) - naive_gelu(middle - h, GetParam())) / (2 * h);
        ASSERT_NEAR(static_cast<double>(parts.slope), slope, 2e-6) << x;
    }
}

TEST_P(GeluTest, HugeInputsStayFiniteAndNanStaysNan) {
    const float nan = std::numeric_limits<float>::quiet_NaN();
    const Tensor x = tensor({-1e30f, 1e30f, -200.0f, 200.0f, nan}, {5});
    const auto y = run(op(), {x});
    const auto dx = gradients(op(), {x}).inputs[0];
    const auto r = random_values(5, "projection");
    EXPECT_EQ(y[0], 0.0);
    EXPECT_EQ(y[1], static_cast<double>(1e30f));
    EXPECT_EQ(y[2], 0.0);
    EXPECT_EQ(y[3], 200.0);
    EXPECT_TRUE(std::isnan(y[4]) && std::isnan(dx[4]));
    for (size_t i : {0u, 2u})
        EXPECT_EQ(dx[i], 0.0);
    for (size_t i : {1u, 3u})
        EXPECT_EQ(dx[i], static_cast<double>(r[i]));
}

TEST_P(GeluTest, Bf16GradientsFollowFp32) {
    expect_bf16_gradients_follow_fp32(
        op(), {tensor(random_values(7 * 19, "x"), {7, 19})}, 6e-3,
        [&](const auto& in) { return core::ops::gelu(op()(in), GetParam()); });
}

TEST_P(GeluTest, ThreadsDoNotChangeBits) {
    constexpr int64_t n = 100'003;
    const Tensor x = tensor(random_values(n, "x"), {n}), dy = tensor(random_values(n, "dy"), {n});
    expect_threads_do_not_change_bits([&](Stream& stream) {
        Tensor y = Tensor::empty({n}, DType::f32, *allocator_);
        Tensor dx = Tensor::empty({n}, DType::f32, *allocator_);
        kernels::gelu_forward(y.out(), x.in(), GetParam(), stream);
        kernels::gelu_backward(dx.out(), dy.in(), x.in(), GetParam(), stream);
        auto all = y.values<float>();
        const auto more = dx.values<float>();
        all.insert(all.end(), more.begin(), more.end());
        return all;
    });
}

INSTANTIATE_TEST_SUITE_P(Forms, GeluTest, ::testing::Values(Gelu::tanh, Gelu::erf),
                         [](const auto& tested) {
                             return tested.param == Gelu::tanh ? "tanh" : "erf";
                         });

}  // namespace
}  // namespace plinth::test
