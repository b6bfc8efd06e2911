// SPDX-License-Identifier: Apache-2.0
#include "kernels/grad_norm.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "kernels/exact_sum.h"
#include "tests/support/expect_error.h"
#include "tests/support/op_fixture.h"
#include "tests/support/same_bits.h"

namespace plinth::test {
namespace {

using kernels::ExactSum;

class GradNormTest : public OpTest {};

TEST_F(GradNormTest, BlockSumsEqualTheFormulaAndThreadsChangeNoBit) {
    for (int64_t n : {1, 7, 1023, 1024, 1025, 100003}) {
        const auto x = random_values(n, "x");
        std::vector<double> expected;
        for (int64_t i = 0; i < n; ++i) {
            if (i % 1024 == 0) expected.push_back(0.0);
            expected.back() += static_cast<double>(x[static_cast<size_t>(i)]) *
                               static_cast<double>(x[static_cast<size_t>(i)]);
        }
        expect_threads_do_not_change_bits([&](Stream& stream) {
            core::Tensor sums = core::Tensor::empty({static_cast<int64_t>(expected.size())},
                                                    DType::f64, *allocator_);
            const core::Tensor gradient = tensor(x, {n});
            kernels::squared_block_sums(sums.out(), {gradient.in()}, stream);
            const auto values = sums.values<double>();
            expect_close(values, expected, 1e-13, "sums");
            return values;
        });
    }
}

TEST_F(GradNormTest, ManyGradientsHaveTheBlocksOfEach) {
    const int64_t sizes[] = {1, 1024, 0, 1025, 70001, 0, 3};
    std::vector<core::Tensor> tensors;
    std::vector<ConstView> gradients;
    std::vector<double> expected;
    for (const int64_t size : sizes) {
        tensors.push_back(tensor(random_values(size, fmt::format("x {}", size)), {size}));
        gradients.push_back(tensors.back().in());
        core::Tensor sums =
            core::Tensor::empty({kernels::gradient_blocks(size)}, DType::f64, *allocator_);
        kernels::squared_block_sums(sums.out(), {gradients.back()}, stream_);
        for (const double sum : sums.values<double>())
            expected.push_back(sum);
    }
    const auto all_of = [&](const std::vector<ConstView>& list, Stream& stream) {
        core::Tensor sums =
            core::Tensor::empty({static_cast<int64_t>(expected.size())}, DType::f64, *allocator_);
        kernels::squared_block_sums(sums.out(), list, stream);
        return sums.values<double>();
    };
    expect_threads_do_not_change_bits([&](Stream& stream) {
        const auto found = all_of(gradients, stream);
        EXPECT_EQ(found, expected);
        return found;
    });
    std::swap(gradients[1], gradients[3]);
    EXPECT_NE(all_of(gradients, stream_), expected) << "the mutant has them in another order";
    gradients.pop_back();
    expect_error(
        ErrorKind::internal, [&] { all_of(gradients, stream_); }, "squared_block_sums");
}

TEST_F(GradNormTest, ANonFiniteElementShowsInItsBlock) {
    for (float bad : {std::nanf(""), std::numeric_limits<float>::infinity()}) {
        auto x = random_values(3000, "x");
        x[1500] = bad;
        core::Tensor sums = core::Tensor::empty({3}, DType::f64, *allocator_);
        const core::Tensor gradient = tensor(x, {3000});
        kernels::squared_block_sums(sums.out(), {gradient.in()}, stream_);
        EXPECT_TRUE(std::isfinite(sums.values<double>()[0]));
        EXPECT_FALSE(std::isfinite(sums.values<double>()[1]));
        EXPECT_TRUE(std::isfinite(sums.values<double>()[2]));
    }
}

std::vector<double> wild_values(size_t n) {
    std::mt19937_64 random(3);
    std::vector<double> values;
    while (values.size() < n) {
        const double x = std::abs(std::bit_cast<double>(random()));
        if (std::isfinite(x) && x < 1e300) values.push_back(x);
    }
    for (double x : {0.0, 5e-324, 2.2e-308, 1.0, 0x1.fffffffffffffp+900})
        values.push_back(x);
    return values;
}

TEST_F(GradNormTest, TheExactSumHasNoOrder) {
    auto values = wild_values(2000);
    const auto sum_of = [](const std::vector<double>& list) {
        ExactSum sum;
        for (double x : list)
            sum.add(x);
        return std::vector<int64_t>(sum.limbs().begin(), sum.limbs().end());
    };
    const auto expected = sum_of(values);
    double plain_first = 0.0, plain_differs = 0.0;
    for (double x : values)
        plain_first += x;
    std::mt19937_64 random(4);
    for (int trial = 0; trial < 20; ++trial) {
        std::shuffle(values.begin(), values.end(), random);
        EXPECT_EQ(sum_of(values), expected);
        double plain = 0.0;
        for (double x : values)
            plain += x;
        plain_differs += plain != plain_first;
    }
    EXPECT_GT(plain_differs, 0)
        << "a plain sum has an order: if it did not show here, the test above shows nothing";
}

TEST_F(GradNormTest, LimbsOfPartsAddUpToTheWhole) {
    const auto values = wild_values(999);
    ExactSum whole, combined;
    std::vector<ExactSum> parts(7);
    for (size_t i = 0; i < values.size(); ++i) {
        whole.add(values[i]);
        parts[i % 7].add(values[i]);
    }
    for (ExactSum& part : parts)
        for (size_t i = 0; i < part.limbs().size(); ++i)
            combined.limbs()[i] += part.limbs()[i];
    EXPECT_EQ(combined.value(), whole.value());
}

TEST_F(GradNormTest, TheExactSumOfSimpleNumbersIsTheirSum) {
    ExactSum sum;
    for (int i = 1; i <= 1000; ++i)
        sum.add(i * 0.25);
    EXPECT_EQ(sum.value(), 125125.0);
    ExactSum tiny;
    for (int i = 0; i < 8; ++i)
        tiny.add(5e-324);
    EXPECT_EQ(tiny.value(), 8 * 5e-324);
    ExactSum mixed;
    mixed.add(0x1p60);
    for (int i = 0; i < 256; ++i)
        mixed.add(1.0);
    EXPECT_EQ(mixed.value(), 0x1p60 + 256.0);
}

TEST_F(GradNormTest, TheExactSumRefusesWhatItCannotHold) {
    constexpr double infinity = std::numeric_limits<double>::infinity();
    for (const double x : {-1.0, -5e-324, infinity, -infinity, std::nan("")}) {
        ExactSum sum;
        sum.add(2.0);
        expect_error(
            ErrorKind::internal, [&] { sum.add(x); }, "an exact sum of");
        EXPECT_EQ(sum.value(), 2.0);
    }
}

TEST_F(GradNormTest, TheKernelsWordsAreThoseOfTheExactSum) {
    constexpr double infinity = std::numeric_limits<double>::infinity();
    for (const size_t n : {0, 1, 31, 3000}) {
        auto values = wild_values(n);
        ExactSum sum;
        for (const double x : values)
            sum.add(x);
        std::vector<int64_t> expected(sum.limbs().begin(), sum.limbs().end());
        expected.push_back(6);
        for (const double x : {infinity, -infinity, std::nan(""), -1.0, -0.0, -5e-324})
            values.insert(values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2), x);
        core::Tensor words =
            core::Tensor::empty({ExactSum::limb_count + 1}, DType::i64, *allocator_);
        const auto count = static_cast<int64_t>(values.size());
        kernels::exact_sum_of_blocks(words.out(),
                                     core::Tensor::of(values, {count}, *allocator_).in(), stream_);
        EXPECT_EQ(words.values<int64_t>(), expected) << n << " values";
    }
}

TEST_F(GradNormTest, TheKernelsWordsOfNothingAreZero) {
    core::Tensor words = core::Tensor::of(std::vector<int64_t>(ExactSum::limb_count + 1, 7),
                                          {ExactSum::limb_count + 1}, *allocator_);
    kernels::exact_sum_of_blocks(words.out(), ConstView(nullptr, DType::f64, Shape{0}), stream_);
    EXPECT_EQ(words.values<int64_t>(), std::vector<int64_t>(ExactSum::limb_count + 1, 0));
}

}  // namespace
}  // namespace plinth::test
