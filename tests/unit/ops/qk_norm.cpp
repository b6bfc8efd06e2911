// SPDX-License-Identifier: Apache-2.0
#include "core/ops/qk_norm.h"

#include <cmath>

#include "tests/support/cases/heads.h"
#include "tests/support/op_fixture.h"
#include "tests/support/same_bits.h"

namespace plinth::test {
namespace {

using core::Tensor;

class QkNormTest : public OpTest {
  protected:
    static kernels::QkNorm options(const HeadsCase& c) {
        return {.heads = c.heads, .kv_heads = c.kv_heads, .eps = 1e-3};
    }
    Function function(const HeadsCase& c) {
        core::Parameter& q = parameter("q_norm.weight", {c.width});
        core::Parameter& k = parameter("k_norm.weight", {c.width});
        return [&](const auto& in) { return core::ops::qk_norm(in[0], q, k, options(c)); };
    }

    /// The oracle: head by head, in double.
    static std::vector<double> naive(const HeadsCase& c, const std::vector<float>& x,
                                     const std::vector<float>& q, const std::vector<float>& k) {
        std::vector<double> y(x.begin(), x.end());
        for (int64_t token = 0; token < c.batch * c.tokens; ++token)
            for (int64_t head = 0; head < c.heads + c.kv_heads; ++head) {
                double* row = y.data() + token * c.columns() + head * c.width;
                double squares = 0.0;
                for (int64_t i = 0; i < c.width; ++i)
                    squares += row[i] * row[i];
                const double scale = 1.0 / std::sqrt(squares / double(c.width) + 1e-3);
                for (int64_t i = 0; i < c.width; ++i)
                    row[i] *= scale * double((head < c.heads ? q : k)[static_cast<size_t>(i)]);
            }
        return y;
    }
    void compare_with_oracle(DType dtype, double tolerance) {
        for (const HeadsCase& c : heads_test_cases) {
            std::vector<float> x = random_values(c.elements(), "x");
            if (dtype == DType::bf16) x = rounded_to_bf16(x);
            const auto y = run(function(c), {tensor(x, {c.batch, c.tokens, c.columns()}, dtype)});
            const auto weight = [&](size_t from_last) {
                return parameters_[parameters_.size() - from_last]->master().values<float>();
            };
            expect_close(y, naive(c, x, weight(2), weight(1)), tolerance, c.name);
        }
    }
};

TEST_F(QkNormTest, Fp32EqualsHeadsInDouble) {
    compare_with_oracle(DType::f32, 1e-6);
}
TEST_F(QkNormTest, Bf16EqualsTheOracleOfRoundedInputs) {
    compare_with_oracle(DType::bf16, 4e-3);
}

TEST_F(QkNormTest, GradientsMatchFiniteDifferences) {
    const HeadsCase& c = heads_test_cases[1];
    expect_gradients_match_differences(
        function(c), {tensor(random_values(c.elements(), "x"), {c.batch, c.tokens, c.columns()})});
}

TEST_F(QkNormTest, Bf16GradientsFollowFp32) {
    for (const HeadsCase& c : heads_test_cases) {
        parameters_.clear();
        expect_bf16_gradients_follow_fp32(
            function(c),
            {tensor(random_values(c.elements(), "x"), {c.batch, c.tokens, c.columns()})}, 1e-2);
    }
}

TEST_F(QkNormTest, ThreadsDoNotChangeBits) {
    const HeadsCase& c = heads_test_cases[3];
    const Shape shape{c.batch, c.tokens, c.columns()};
    const Tensor qkv = tensor(random_values(c.elements(), "x"), shape);
    const Tensor dy = tensor(random_values(c.elements(), "dy"), shape);
    const Tensor q = tensor(random_values(c.width, "q"), {c.width});
    const Tensor k = tensor(random_values(c.width, "k"), {c.width});
    expect_threads_do_not_change_bits([&](Stream& stream) {
        Tensor y = Tensor::empty(shape, DType::f32, *allocator_), dx = y;
        Tensor rstd = Tensor::empty({c.tokens, c.heads + c.kv_heads}, DType::f32, *allocator_);
        Tensor dweight = Tensor::empty({c.width}, DType::f32, *allocator_);
        kernels::qk_norm_forward(y.out(), rstd.out(), qkv.in(), q.in(), k.in(), options(c), stream);
        std::vector<double> all = to_doubles(y);
        const auto append = [&](const Tensor& more) {
            for (double value : to_doubles(more))
                all.push_back(value);
        };
        kernels::qk_norm_input_grad(dx.out(), dy.in(), qkv.in(), rstd.in(), q.in(), k.in(),
                                    options(c), stream);
        append(dx);
        for (bool of_keys : {false, true}) {
            kernels::qk_norm_weight_grad(dweight.out(), dy.in(), qkv.in(), rstd.in(), of_keys,
                                         options(c), stream);
            append(dweight);
        }
        return all;
    });
}

TEST_F(QkNormTest, WeightsThatDoNotFitAreRefusedByName) {
    core::Parameter& q = parameter("blocks.0.attention.q_norm.weight", {5});
    core::Parameter& k = parameter("blocks.0.attention.k_norm.weight", {4});
    try {
        run([&](const auto& in) { return core::ops::qk_norm(in[0], q, k, {}); },
            {tensor(std::vector<float>(12), {1, 1, 12})});
        GTEST_FAIL() << "not refused";
    } catch (const Error& error) {
        EXPECT_NE(std::string(error.what()).find("q_norm.weight"), std::string::npos);
    }
}

}  // namespace
}  // namespace plinth::test
