// SPDX-License-Identifier: Apache-2.0
#include "kernels/math.h"

#include <gtest/gtest.h>

#include <cmath>

namespace plinth::test {
namespace {

using kernels::exp_of;

/// Largest error of `function` relative to `oracle` over every 1009th fp32 in [low, high].
template <typename Function, typename Oracle>
double largest_relative_error(float low, float high, Function function, Oracle oracle) {
    double worst = 0.0;
    const auto visit = [&](uint32_t first, uint32_t last) {
        for (uint64_t bits = first; bits <= last; bits += 1009) {
            const float x = std::bit_cast<float>(static_cast<uint32_t>(bits));
            const double expected = oracle(static_cast<double>(x));
            const double error = std::abs(static_cast<double>(function(x)) - expected);
            worst = std::max(worst, error / std::abs(expected));
        }
    };
    if (low < 0) visit(0x80000000u, std::bit_cast<uint32_t>(low));
    if (high > 0) visit(0u, std::bit_cast<uint32_t>(high));
    return worst;
}

TEST(ExpOf, RelativeErrorIsBelowTheStatedBound) {
    const double error = largest_relative_error(
        -87.3365f, 88.7228f, [](float x) { return exp_of(x); }, [](double x) { return exp(x); });
    EXPECT_LT(error, 1.2e-7);
    EXPECT_GT(error, 0.0);
}

TEST(ExpOf, EndsOfTheRange) {
    const float infinity = std::numeric_limits<float>::infinity();
    EXPECT_EQ(exp_of(0.0f), 1.0f);
    EXPECT_EQ(exp_of(-0.0f), 1.0f);
    EXPECT_EQ(exp_of(-infinity), 0.0f);
    EXPECT_EQ(exp_of(-88.0f), 0.0f);
    EXPECT_EQ(exp_of(-3e38f), 0.0f);
    EXPECT_EQ(exp_of(88.73f), infinity);
    EXPECT_EQ(exp_of(infinity), infinity);
    EXPECT_TRUE(std::isnan(exp_of(std::numeric_limits<float>::quiet_NaN())));
}

}  // namespace
}  // namespace plinth::test
