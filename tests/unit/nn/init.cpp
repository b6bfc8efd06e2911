// SPDX-License-Identifier: Apache-2.0
#include "core/nn/init.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/nn/declaration.h"
#include "tests/support/expect_error.h"
#include "tests/support/same_bits.h"
#include "tests/support/surroundings.h"

namespace plinth::test {
namespace {

using core::Init;
using core::Parameter;

std::vector<float> initial(const std::string& name, const Shape& shape, Init init, uint64_t seed,
                           Stream& stream) {
    CachingAllocator allocator(host_memory());
    Parameter parameter({.name = name, .shape = shape, .init = init});
    parameter.materialize(core::Tensor::empty(shape, DType::f32, allocator));
    const uint64_t before = parameter.version();
    core::nn::initialize(parameter, seed, stream);
    EXPECT_GT(parameter.version(), before) << "derived copies must be made again";
    return parameter.master().values<float>();
}

TEST(Init, NormalHasItsMomentsAndTails) {
    Stream stream(2);
    const int64_t n = 1'000'003;
    const auto values = initial("w", {n}, Init::normal(0.02), 1, stream);
    double sum = 0.0, square = 0.0, fourth = 0.0, neighbours = 0.0;
    int64_t beyond_two = 0;
    for (size_t i = 0; i < values.size(); ++i) {
        const double z = static_cast<double>(values[i]) / 0.02;
        sum += z;
        square += z * z;
        fourth += z * z * z * z;
        beyond_two += std::abs(z) > 2.0;
        if (i > 0) neighbours += z * static_cast<double>(values[i - 1]) / 0.02;
    }
    const double count = static_cast<double>(n), sigma = 1.0 / std::sqrt(count);
    EXPECT_NEAR(sum / count, 0.0, 5 * sigma);
    EXPECT_NEAR(square / count, 1.0, 5 * std::sqrt(2.0) * sigma);
    EXPECT_NEAR(fourth / count, 3.0, 5 * std::sqrt(96.0) * sigma);
    EXPECT_NEAR(neighbours / count, 0.0, 5 * sigma) << "neighbours are correlated";
    EXPECT_NEAR(static_cast<double>(beyond_two) / count, 0.0455003, 5 * 0.2084 * sigma);
}

TEST(Init, DependsOnSeedNameAndElementAlone) {
    expect_threads_do_not_change_bits(
        [](Stream& stream) { return initial("w", {70001}, Init::normal(0.02), 1, stream); });
    Stream stream(1);
    const auto whole = initial("w", {70001}, Init::normal(0.02), 1, stream);
    const auto shorter = initial("w", {101, 3}, Init::normal(0.02), 1, stream);
    EXPECT_TRUE(std::equal(shorter.begin(), shorter.end(), whole.begin()));
    EXPECT_NE(initial("v", {101, 3}, Init::normal(0.02), 1, stream), shorter);
    EXPECT_NE(initial("w", {101, 3}, Init::normal(0.02), 2, stream), shorter);
}

TEST(Init, ABoxHasTheBitsOfItsPlaceInTheWhole) {
    Stream stream(2);
    CachingAllocator allocator(host_memory());
    const Shape shape{60, 501};
    const auto whole = initial("w", shape, Init::normal(0.02), 1, stream);
    const auto box = [&](int64_t row, int64_t column, int64_t rows, int64_t columns) {
        return core::Shard{shape, {row, column}, {rows, columns}, 0, rows * columns};
    };
    // Columns of all rows; and three groups of rows, as of q, k and v.
    for (const std::vector<core::Shard>& boxes :
         {std::vector{box(0, 167, 60, 167)},
          std::vector{box(10, 0, 10, 501), box(40, 0, 5, 501), box(55, 0, 5, 501)}}) {
        Parameter parameter({.name = "w", .shape = shape, .init = Init::normal(0.02)});
        parameter.place(boxes);
        parameter.materialize(core::Tensor::empty(parameter.local_shape(), DType::f32, allocator));
        core::nn::initialize(parameter, 1, stream);
        const auto found = parameter.master().values<float>();
        std::vector<float> expected;
        for (const core::Shard& each : boxes)
            for (int64_t row = 0; row < each.local_shape[0]; ++row)
                for (int64_t column = 0; column < each.local_shape[1]; ++column)
                    expected.push_back(whole[static_cast<size_t>((each.offset[0] + row) * shape[1] +
                                                                 each.offset[1] + column)]);
        EXPECT_EQ(found, expected);
    }
    Parameter parameter({.name = "w", .shape = shape, .init = Init::zeros()});
    expect_error(
        ErrorKind::internal,
        [&] {
            parameter.place({box(0, 0, 5, 501), box(5, 0, 5, 500)});
        },
        "w", "do not stack");
}

TEST(Init, ZerosAndOnes) {
    Stream stream(1);
    EXPECT_EQ(initial("w", {3}, Init::zeros(), 1, stream), (std::vector<float>{0, 0, 0}));
    EXPECT_EQ(initial("w", {3}, Init::ones(), 1, stream), (std::vector<float>{1, 1, 1}));
}

TEST(Declaration, NamesInOrderAndRefusesASecond) {
    core::nn::ParameterSet set;
    const core::nn::Declaration root(set);
    const Parameter& weight = (root / "blocks" / 3 / "up").weight({4, 2}, Init::zeros());
    const Parameter& bias = (root / "blocks" / 3 / "up").vector("bias", 4, Init::zeros());
    EXPECT_EQ(weight.name(), "blocks.3.up.weight");
    EXPECT_TRUE(weight.spec().decay);
    EXPECT_FALSE(bias.spec().decay);
    EXPECT_EQ(set.elements(), 12);
    EXPECT_EQ(set.find("blocks.3.up.bias"), &bias);
    EXPECT_EQ(set.find("blocks.4.up.bias"), nullptr);
    EXPECT_EQ(set.all(), (std::vector<Parameter*>{set.find(weight.name()), set.find(bias.name())}));
    expect_error(
        ErrorKind::internal, [&] { (root / "blocks" / 3 / "up").vector("bias", 4, Init::zeros()); },
        "blocks.3.up.bias", "twice");
}

}  // namespace
}  // namespace plinth::test
