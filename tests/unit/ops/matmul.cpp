// SPDX-License-Identifier: Apache-2.0
#include "core/ops/matmul.h"

#include <cstring>

#include "kernels/matmul.h"
#include "tests/support/cases/matmul.h"
#include "tests/support/op_fixture.h"
#include "tests/support/same_bits.h"

namespace plinth::test {
namespace {

using core::Tensor;

/// The oracle: three loops in double.
std::vector<double> naive_linear(const std::vector<float>& x, const std::vector<float>& w,
                                 const std::vector<float>& b, const MatmulCase& c) {
    std::vector<double> y(static_cast<size_t>(c.rows * c.outputs));
    for (int64_t r = 0; r < c.rows; ++r)
        for (int64_t n = 0; n < c.outputs; ++n) {
            double sum = b.empty() ? 0.0 : static_cast<double>(b[static_cast<size_t>(n)]);
            for (int64_t k = 0; k < c.inputs; ++k)
                sum += static_cast<double>(x[static_cast<size_t>(r * c.inputs + k)]) *
                       static_cast<double>(w[static_cast<size_t>(n * c.inputs + k)]);
            y[static_cast<size_t>(r * c.outputs + n)] = sum;
        }
    return y;
}

class MatmulTest : public OpTest {
  protected:
    void compare_with_naive(DType dtype, double tolerance) {
        for (const MatmulCase& c : matmul_test_cases) {
            SCOPED_TRACE(c.name);
            auto x = random_values(c.rows * c.inputs, "x");
            if (dtype == DType::bf16) x = rounded_to_bf16(x);
            core::Parameter& w = parameter("w", {c.outputs, c.inputs});
            core::Parameter& b = parameter("b", {c.outputs});
            auto w_values = w.master().values<float>();
            if (dtype == DType::bf16) w_values = rounded_to_bf16(w_values);
            const auto y = run([&](const auto& in) { return core::ops::linear(in[0], {w}, &b); },
                               {tensor(x, {c.rows, c.inputs}, dtype)});
            expect_close(y, naive_linear(x, w_values, b.master().values<float>(), c), tolerance,
                         c.name);
        }
    }
};

TEST_F(MatmulTest, Fp32EqualsNaiveLoopsInDouble) {
    compare_with_naive(DType::f32, 2e-5);
}
TEST_F(MatmulTest, Bf16EqualsNaiveLoopsOfRoundedOperands) {
    compare_with_naive(DType::bf16, 5e-3);
}

TEST_F(MatmulTest, GradientsMatchFiniteDifferences) {
    core::Parameter& w = parameter("w", {7, 5});
    core::Parameter& b = parameter("b", {7});
    expect_gradients_match_differences(
        [&](const auto& in) { return core::ops::linear(in[0], {w}, &b); },
        {tensor(random_values(2 * 3 * 5, "x"), {2, 3, 5})});
}

TEST_F(MatmulTest, Bf16GradientsFollowFp32) {
    core::Parameter& w = parameter("w", {83, 61});
    core::Parameter& b = parameter("b", {83});
    expect_bf16_gradients_follow_fp32(
        [&](const auto& in) { return core::ops::linear(in[0], {w}, &b); },
        {tensor(random_values(3 * 29 * 61, "x"), {3, 29, 61})}, 6e-3);
}

TEST_F(MatmulTest, AccumulateEqualsProductThenAddBitForBit) {
    for (DType dtype : {DType::f32, DType::bf16}) {
        const auto a = tensor(random_values(61 * 384, "a"), {61, 384}, dtype);
        const auto b = tensor(random_values(384 * 83, "b"), {384, 83}, dtype);
        Tensor product = tensor(std::vector<float>(61 * 83), {61, 83});
        Tensor sum = tensor(random_values(61 * 83, "c"), {61, 83});
        std::vector<float> expected = sum.values<float>();
        kernels::matmul(product.out(), a.in(), b.in(), {}, {}, stream_);
        for (size_t i = 0; i < expected.size(); ++i)
            expected[i] += product.in().as<float>()[i];
        kernels::matmul(sum.out(), a.in(), b.in(), {}, {.accumulate = true}, stream_);
        EXPECT_EQ(0,
                  std::memcmp(expected.data(), sum.data<float>(), expected.size() * sizeof(float)));
    }
}

/// Several output tiles and several blocks of the inner extent; the last one has rows so long that
/// a transposed left operand is copied (kernels/cpu/gemm.cpp).
constexpr struct Extents {
    int64_t m, n, k;
} thread_cases[] = {
    {192, 64, 2048}, {384, 384, 4096}, {384, 384, 1031}, {97, 101, 2053}, {1040, 96, 801}};

// A weight gradient of a lane's first slot is a product, that of a later one is added.
TEST_F(MatmulTest, AccumulatingAddsTheBitsOfTheProductForEveryTile) {
    for (const Extents& c : thread_cases)
        for (const DType dtype : {DType::f32, DType::bf16}) {
            const Tensor a = tensor(random_values(c.k * c.m, "a"), {c.k, c.m}, dtype);
            const Tensor b = tensor(random_values(c.k * c.n, "b"), {c.k, c.n}, dtype);
            Tensor product = Tensor::empty({c.m, c.n}, DType::f32, *allocator_);
            Tensor sum = tensor(random_values(c.m * c.n, "c"), {c.m, c.n});
            std::vector<float> expected = sum.values<float>();
            kernels::matmul(product.out(), a.in(), b.in(), {}, {.transpose_a = true}, stream_);
            for (size_t i = 0; i < expected.size(); ++i)
                expected[i] += product.in().as<float>()[i];
            kernels::matmul(sum.out(), a.in(), b.in(), {},
                            {.transpose_a = true, .accumulate = true}, stream_);
            EXPECT_EQ(sum.values<float>(), expected) << c.m << 'x' << c.n << 'x' << c.k;
        }
}

TEST_F(MatmulTest, ThreadsDoNotChangeBits) {
    for (const auto& c : thread_cases) {
        const auto a_values = random_values(c.k * c.m, "a"),
                   b_values = random_values(c.k * c.n, "b");
        for (const DType dtype : {DType::f32, DType::bf16})
            for (const bool transpose_a : {false, true})
                for (const bool transpose_b : {false, true}) {
                    const Shape a_shape = transpose_a ? Shape{c.k, c.m} : Shape{c.m, c.k};
                    const Shape b_shape = transpose_b ? Shape{c.n, c.k} : Shape{c.k, c.n};
                    const auto a = tensor(a_values, a_shape, dtype);
                    const auto b = tensor(b_values, b_shape, dtype);
                    expect_threads_do_not_change_bits(
                        [&](Stream& stream) {
                            Tensor y = Tensor::empty({c.m, c.n}, DType::f32, *allocator_);
                            kernels::matmul(y.out(), a.in(), b.in(), {}, {transpose_a, transpose_b},
                                            stream);
                            return y.values<float>();
                        },
                        fmt::format("{}x{}x{}, {}, transposed {} {}", c.m, c.n, c.k, name_of(dtype),
                                    transpose_a, transpose_b));
                }
    }
}

// The mutant: each thread multiplies its part of the inner extent, and the parts are added.
TEST_F(MatmulTest, AnInnerExtentCutAmongThreadsChangesBits) {
    for (const auto& c : thread_cases)
        for (const DType dtype : {DType::f32, DType::bf16}) {
            const auto a = tensor(random_values(c.k * c.m, "a"), {c.k, c.m}, dtype);
            const auto b = tensor(random_values(c.k * c.n, "b"), {c.k, c.n}, dtype);
            expect_threads_change_bits(
                [&](Stream& stream) {
                    Tensor y = Tensor::empty({c.m, c.n}, DType::f32, *allocator_);
                    const int64_t parts = stream.pool().threads();
                    for (int64_t part = 0; part < parts; ++part) {
                        const int64_t begin = part * c.k / parts, end = (part + 1) * c.k / parts;
                        kernels::matmul(y.out(), a.rows(begin, end).in(), b.rows(begin, end).in(),
                                        {}, {.transpose_a = true, .accumulate = part > 0}, stream);
                    }
                    return y.values<float>();
                },
                fmt::format("{}x{}x{}", c.m, c.n, c.k));
        }
}

TEST_F(MatmulTest, TheCpuHasNoAlgorithmsToKeep) {
    std::string text = "of a device";
    kernels::save_matmul_algorithms(text, stream_);
    EXPECT_EQ(text, "");
    bool is_taken = true;
    kernels::load_matmul_algorithms(is_taken, "of a device", stream_);
    EXPECT_FALSE(is_taken);
    int64_t count = 1;
    kernels::count_matmul_algorithms(count, stream_);
    EXPECT_EQ(count, 0);
    kernels::let_matmul_be_timed(false, stream_);
}

TEST_F(MatmulTest, ShapesThatDoNotFitAreRefusedByName) {
    core::Parameter& w = parameter("blocks.0.mlp.up.weight", {7, 5});
    try {
        run([&](const auto& in) { return core::ops::linear(in[0], {w}); },
            {tensor(random_values(8, "x"), {2, 4})});
        GTEST_FAIL() << "not refused";
    } catch (const Error& error) {
        EXPECT_NE(std::string(error.what()).find("blocks.0.mlp.up.weight"), std::string::npos)
            << error.what();
    }
}

}  // namespace
}  // namespace plinth::test
