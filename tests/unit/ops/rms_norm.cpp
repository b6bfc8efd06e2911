// SPDX-License-Identifier: Apache-2.0
#include "core/ops/rms_norm.h"

#include <cmath>

#include "kernels/rms_norm.h"
#include "tests/support/cases/rows.h"
#include "tests/support/op_fixture.h"
#include "tests/support/same_bits.h"

namespace plinth::test {
namespace {

constexpr double eps = 1e-5;

class RmsNormTest : public OpTest {};

std::vector<double> naive_rms_norm(const std::vector<float>& x, const std::vector<float>& weight,
                                   const RowsCase& c) {
    std::vector<double> y;
    for (int64_t r = 0; r < c.rows; ++r) {
        const float* row = x.data() + r * c.width;
        double square = 0.0;
        for (int64_t i = 0; i < c.width; ++i)
            square += static_cast<double>(row[i]) * static_cast<double>(row[i]);
        const double rstd = 1.0 / std::sqrt(square / static_cast<double>(c.width) + eps);
        for (int64_t i = 0; i < c.width; ++i)
            y.push_back(static_cast<double>(row[i]) * rstd *
                        static_cast<double>(weight[static_cast<size_t>(i)]));
    }
    return y;
}

TEST_F(RmsNormTest, EqualsTheFormulaInDouble) {
    for (const RowsCase& c : rows_test_cases)
        for (DType dtype : {DType::f32, DType::bf16}) {
            auto x = random_values(c.rows * c.width, "x");
            if (dtype == DType::bf16) x = rounded_to_bf16(x);
            core::Parameter& weight = parameter("weight", {c.width});
            const auto y =
                run([&](const auto& in) { return core::ops::rms_norm(in[0], weight, eps); },
                    {tensor(x, {c.rows, c.width}, dtype)});
            expect_close(y, naive_rms_norm(x, weight.master().values<float>(), c),
                         dtype == DType::f32 ? 2e-6 : 5e-3, c.name);
        }
}

TEST_F(RmsNormTest, GradientsMatchFiniteDifferences) {
    core::Parameter& weight = parameter("weight", {37});
    expect_gradients_match_differences(
        [&](const auto& in) { return core::ops::rms_norm(in[0], weight, eps); },
        {tensor(random_values(5 * 29 * 37, "x"), {5, 29, 37})}, 1e-2, 4e-3);
}

TEST_F(RmsNormTest, Bf16GradientsFollowFp32) {
    core::Parameter& weight = parameter("weight", {37});
    const auto of_eps = [&](double e) {
        return [&weight, e](const auto& in) { return core::ops::rms_norm(in[0], weight, e); };
    };
    expect_bf16_gradients_follow_fp32(of_eps(eps), {tensor(random_values(67 * 37, "x"), {67, 37})},
                                      1e-2, of_eps(0.02));
}

TEST_F(RmsNormTest, ThreadsDoNotChangeBits) {
    const int64_t rows = 193, width = 67;
    const auto x = tensor(random_values(rows * width, "x"), {rows, width});
    const auto dy = tensor(random_values(rows * width, "dy"), {rows, width});
    const auto weight = tensor(random_values(width, "weight"), {width});
    expect_threads_do_not_change_bits([&](Stream& stream) {
        core::Tensor y = tensor(x.values<float>(), {rows, width}),
                     dx = tensor(x.values<float>(), {rows, width});
        core::Tensor rstd = tensor(std::vector<float>(rows), {rows}),
                     dweight = tensor(std::vector<float>(width), {width});
        kernels::rms_norm_forward(y.out(), rstd.out(), {}, x.in(), {}, weight.in(), eps, stream);
        kernels::rms_norm_backward(dx.out(), dweight.out(), dy.in(), {}, x.in(), weight.in(),
                                   rstd.in(), stream);
        std::vector<float> all;
        for (const core::Tensor& t : {y, rstd, dx, dweight}) {
            const auto values = t.values<float>();
            all.insert(all.end(), values.begin(), values.end());
        }
        return all;
    });
}

}  // namespace
}  // namespace plinth::test
