// SPDX-License-Identifier: Apache-2.0
#include "kernels/bias_grad.h"

#include <cmath>

#include "tests/support/cases/matmul.h"
#include "tests/support/op_fixture.h"
#include "tests/support/same_bits.h"

namespace plinth::test {
namespace {

class BiasGradTest : public OpTest {
  protected:
    std::vector<float> given(int64_t n, const std::string& name, DType dtype) {
        const std::vector<float> values = random_values(n, name);
        return dtype == DType::bf16 ? rounded_to_bf16(values) : values;
    }
};

double gelu_slope(double x) {
    const double root = std::sqrt(2.0 / M_PI), t = std::tanh(root * (x + 0.044715 * x * x * x));
    return 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * root * (1.0 + 3.0 * 0.044715 * x * x);
}

TEST_F(BiasGradTest, WeightAndBiasGradientsAreTheFormulas) {
    for (const MatmulCase& c : matmul_test_cases)
        for (const DType dtype : {DType::f32, DType::bf16}) {
            const int64_t N = c.rows, I = c.inputs, O = c.outputs;
            const auto dy = given(N * O, "dy", dtype), x = given(N * I, "x", dtype);
            std::vector<double> dweight(static_cast<size_t>(O * I)), dbias(static_cast<size_t>(O));
            for (int64_t n = 0; n < N; ++n)
                for (int64_t o = 0; o < O; ++o) {
                    const double g = dy[static_cast<size_t>(n * O + o)];
                    dbias[static_cast<size_t>(o)] += g;
                    for (int64_t i = 0; i < I; ++i)
                        dweight[static_cast<size_t>(o * I + i)] +=
                            g * static_cast<double>(x[static_cast<size_t>(n * I + i)]);
                }
            expect_threads_do_not_change_bits([&](Stream& stream) {
                core::Tensor weights = core::Tensor::empty({O, I}, DType::f32, *allocator_),
                             biases = core::Tensor::empty({O}, DType::f32, *allocator_);
                kernels::linear_grads(weights.out(), biases.out(), tensor(dy, {N, O}, dtype).in(),
                                      tensor(x, {N, I}, dtype).in(), stream);
                std::vector<double> all = to_doubles(biases);
                expect_close(all, dbias, 1e-5, std::string(c.name) + " dbias");
                const std::vector<double> found = to_doubles(weights);
                expect_close(found, dweight, 1e-4, std::string(c.name) + " dweight");
                all.insert(all.end(), found.begin(), found.end());
                return all;
            });
        }
}

TEST_F(BiasGradTest, GradientsBehindGeluAreTheFormulas) {
    for (const MatmulCase& c : matmul_test_cases)
        for (const DType dtype : {DType::f32, DType::bf16}) {
            const int64_t N = c.rows, I = c.inputs, O = c.outputs;
            const auto dy = given(N * I, "dy", dtype), weight = given(I * O, "weight", dtype),
                       pre = given(N * O, "pre", dtype);
            std::vector<double> dpre(static_cast<size_t>(N * O)), dbias(static_cast<size_t>(O));
            for (int64_t n = 0; n < N; ++n)
                for (int64_t o = 0; o < O; ++o) {
                    double sum = 0.0;
                    for (int64_t i = 0; i < I; ++i)
                        sum += static_cast<double>(dy[static_cast<size_t>(n * I + i)]) *
                               static_cast<double>(weight[static_cast<size_t>(i * O + o)]);
                    const auto at = static_cast<size_t>(n * O + o);
                    dpre[at] = sum * gelu_slope(pre[at]);
                    dbias[static_cast<size_t>(o)] += dpre[at];
                }
            core::Tensor out = core::Tensor::empty({N, O}, dtype, *allocator_),
                         biases = core::Tensor::empty({O}, DType::f32, *allocator_);
            kernels::gelu_linear_grads(out.out(), biases.out(), tensor(dy, {N, I}, dtype).in(),
                                       tensor(weight, {I, O}, dtype).in(),
                                       tensor(pre, {N, O}, dtype).in(), stream_);
            const bool is_half = dtype == DType::bf16;
            expect_close(to_doubles(out), dpre, is_half ? 1.6e-2 : 1e-4, c.name);
            // Sums of N elements that were rounded.
            EXPECT_LT(norm_error(to_doubles(biases), dbias), is_half ? 1e-2 : 1e-4) << c.name;
        }
}

}  // namespace
}  // namespace plinth::test
