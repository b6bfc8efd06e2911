// SPDX-License-Identifier: Apache-2.0
#include "core/ops/layer_norm.h"

#include <cmath>

#include "kernels/layer_norm.h"
#include "tests/support/cases/rows.h"
#include "tests/support/expect_error.h"
#include "tests/support/op_fixture.h"
#include "tests/support/same_bits.h"

namespace plinth::test {
namespace {

using core::Tensor;

constexpr double eps = 1e-5;

std::vector<double> naive_layer_norm(const std::vector<float>& x, const std::vector<float>& w,
                                     const std::vector<float>& b, const RowsCase& c) {
    std::vector<double> y;
    for (int64_t r = 0; r < c.rows; ++r) {
        const float* row = x.data() + r * c.width;
        double mean = 0.0, variance = 0.0;
        for (int64_t i = 0; i < c.width; ++i)
            mean += static_cast<double>(row[i]) / static_cast<double>(c.width);
        for (int64_t i = 0; i < c.width; ++i)
            variance +=
                std::pow(static_cast<double>(row[i]) - mean, 2) / static_cast<double>(c.width);
        for (size_t i = 0; i < w.size(); ++i)
            y.push_back((static_cast<double>(row[i]) - mean) / std::sqrt(variance + eps) *
                            static_cast<double>(w[i]) +
                        (b.empty() ? 0.0 : static_cast<double>(b[i])));
    }
    return y;
}

class LayerNormTest : public OpTest {
  protected:
    void compare_with_naive(DType dtype, double tolerance) {
        for (const RowsCase& c : rows_test_cases) {
            SCOPED_TRACE(c.name);
            auto x = random_values(c.rows * c.width, "x");
            if (dtype == DType::bf16) x = rounded_to_bf16(x);
            core::Parameter& w = parameter("w", {c.width});
            core::Parameter& b = parameter("b", {c.width});
            const Tensor in = tensor(x, {c.rows, c.width}, dtype);
            const auto weights = w.master().values<float>();
            expect_close(
                run([&](const auto& t) { return core::ops::layer_norm(t[0], w, &b, eps); }, {in}),
                naive_layer_norm(x, weights, b.master().values<float>(), c), tolerance,
                "with bias");
            expect_close(
                run([&](const auto& t) { return core::ops::layer_norm(t[0], w, nullptr, eps); },
                    {in}),
                naive_layer_norm(x, weights, {}, c), tolerance, "without bias");
        }
    }
};

TEST_F(LayerNormTest, Fp32EqualsTheFormulaInDouble) {
    compare_with_naive(DType::f32, 1e-5);
}
TEST_F(LayerNormTest, Bf16EqualsTheFormulaOfRoundedInputs) {
    compare_with_naive(DType::bf16, 5e-3);
}

TEST_F(LayerNormTest, ALargeMeanDoesNotCancel) {
    auto x = random_values(3 * 768, "x");
    for (float& value : x)
        value += 1000.0f;
    core::Parameter& w = parameter("w", {768});
    const auto y = run([&](const auto& t) { return core::ops::layer_norm(t[0], w, nullptr, eps); },
                       {tensor(x, {3, 768})});
    expect_close(y, naive_layer_norm(x, w.master().values<float>(), {}, {"", 3, 768}), 2e-4,
                 "mean 1000");
}

TEST_F(LayerNormTest, GradientsMatchFiniteDifferences) {
    for (int64_t rows : {3, 70}) {  // 70: more than one block of the weight gradient
        core::Parameter& w = parameter("w" + std::to_string(rows), {11});
        core::Parameter& b = parameter("b" + std::to_string(rows), {11});
        const Tensor x = tensor(random_values(rows * 11, "x"), {rows, 11});
        expect_gradients_match_differences(
            [&](const auto& t) { return core::ops::layer_norm(t[0], w, &b, eps); }, {x});
        parameters_.clear();
    }
}

TEST_F(LayerNormTest, GradientsWithoutBiasMatchFiniteDifferences) {
    core::Parameter& w = parameter("w", {7});
    expect_gradients_match_differences(
        [&](const auto& t) { return core::ops::layer_norm(t[0], w, nullptr, eps); },
        {tensor(random_values(5 * 7, "x"), {5, 7})});
}

TEST_F(LayerNormTest, Bf16GradientsFollowFp32) {
    core::Parameter& w = parameter("w", {19});
    core::Parameter& b = parameter("b", {19});
    const auto of_eps = [&](double e) {
        return [&w, &b, e](const auto& t) { return core::ops::layer_norm(t[0], w, &b, e); };
    };
    expect_bf16_gradients_follow_fp32(of_eps(eps), {tensor(random_values(67 * 19, "x"), {67, 19})},
                                      1e-2, of_eps(0.02));
}

TEST_F(LayerNormTest, ThreadsDoNotChangeBits) {
    constexpr int64_t rows = 331, width = 129, blocks = 6;
    const Tensor x = tensor(random_values(rows * width, "x"), {rows, width});
    const Tensor dy = tensor(random_values(rows * width, "dy"), {rows, width});
    const Tensor w = tensor(random_values(width, "w"), {width});
    expect_threads_do_not_change_bits([&](Stream& stream) {
        const auto empty = [&](const Shape& s) {
            return Tensor::empty(s, DType::f32, *allocator_);
        };
        Tensor y = empty({rows, width}), mean = empty({rows}), rstd = empty({rows});
        Tensor dx = empty({rows, width}), dw = empty({blocks, width}), db = empty({blocks, width});
        kernels::layer_norm_forward(y.out(), mean.out(), rstd.out(), {}, x.in(), {}, w.in(), w.in(),
                                    1e-5f, stream);
        kernels::layer_norm_backward(dx.out(), dw.out(), db.out(), dy.in(), {}, x.in(), w.in(),
                                     mean.in(), rstd.in(), stream);
        std::vector<float> all;
        for (const Tensor& t : {y, mean, rstd, dx, dw, db}) {
            const auto values = t.values<float>();
            all.insert(all.end(), values.begin(), values.end());
        }
        return all;
    });
}

TEST_F(LayerNormTest, ShapesThatDoNotFitAreRefusedByName) {
    core::Parameter& w = parameter("blocks.0.norm.weight", {7});
    expect_error(
        ErrorKind::internal,
        [&] {
            run([&](const auto& t) { return core::ops::layer_norm(t[0], w, nullptr, eps); },
                {tensor(random_values(8, "x"), {2, 4})});
        },
        "blocks.0.norm.weight");
}

}  // namespace
}  // namespace plinth::test
