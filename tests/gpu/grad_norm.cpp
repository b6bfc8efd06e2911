// SPDX-License-Identifier: Apache-2.0
#include "kernels/grad_norm.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "kernels/exact_sum.h"
#include "tests/gpu/device_test.h"

namespace plinth::test {
namespace {

using GradNormTest = DeviceTest;

void sum_blocks(const std::vector<View>& v, Stream& stream) {
    kernels::squared_block_sums(v[0], {v[1]}, stream);
}

TEST_F(GradNormTest, BlockSumsAreThoseOfTheHost) {
    for (const int64_t n : {1, 7, 1023, 1024, 1025, 100003, 1 << 20})
        expect_same({output("sums", {(n + 1023) / 1024}, DType::f64, 1e-13), input("x", {n})},
                    sum_blocks, "n " + std::to_string(n));
}

TEST_F(GradNormTest, BlocksNeedNotBeAligned) {
    expect_same(
        {output("sums", {3}, DType::f64, 1e-13), input("x", {3002})},
        [](const std::vector<View>& v, Stream& stream) {
            const View rest(static_cast<float*>(v[1].data) + 1, DType::f32, {3001}, v[1].device);
            kernels::squared_block_sums(v[0], {rest}, stream);
        },
        "from the second element on");
}

TEST_F(GradNormTest, ManyGradientsHaveTheBlocksOfTheHost) {
    std::vector<int64_t> sizes;
    int64_t blocks = 0, n = 0;
    for (int64_t i = 0; i < 400; ++i) {
        sizes.push_back(i % 7 == 2 ? 0 : i % 50 == 9 ? 20011 : 1 + 13 * (i % 90));
        blocks += kernels::gradient_blocks(sizes.back());
        n += sizes.back();
    }
    expect_same(
        {output("sums", {blocks}, DType::f64, 1e-13), input("x", {n})},
        [&](const std::vector<View>& v, Stream& stream) {
            std::vector<ConstView> gradients;
            const auto* x = static_cast<const float*>(v[1].data);
            for (const int64_t size : sizes) {
                gradients.emplace_back(x, DType::f32, Shape{size}, v[1].device);
                x += size;
            }
            kernels::squared_block_sums(v[0], gradients, stream);
        },
        "400 gradients");
}

TEST_F(GradNormTest, ANonFiniteElementShowsInItsBlock) {
    for (const float bad : {std::nanf(""), std::numeric_limits<float>::infinity()}) {
        std::vector<float> x(3000, 0.5f);
        x[1500] = bad;
        const auto sums = on_device(
            {output("sums", {3}, DType::f64, 0.0), input_of("x", {3000}, x)}, sum_blocks)[0];
        EXPECT_EQ(sums[0], 256.0);
        EXPECT_FALSE(std::isfinite(sums[1]));
        EXPECT_EQ(sums[2], 0.25 * (3000 - 2048));
    }
}

Operand doubles(const std::vector<double>& values) {
    Operand operand{
        .name = "block sums", .dtype = DType::f64, .shape = {static_cast<int64_t>(values.size())}};
    operand.bytes.resize(values.size() * sizeof(double));
    std::memcpy(operand.bytes.data(), values.data(), operand.bytes.size());
    return operand;
}

void add_exactly(const std::vector<View>& v, Stream& stream) {
    kernels::exact_sum_of_blocks(v[0], v[1], stream);
}

// Limbs are below 2^32, so that comparing them as doubles is exact.
TEST_F(GradNormTest, ExactSumsAreThoseOfTheHost) {
    std::mt19937_64 random(3);
    for (const size_t n : {1, 31, 1000, 300007}) {
        std::vector<double> any(n), alike(n);
        for (size_t i = 0; i < n; ++i) {
            any[i] = std::bit_cast<double>(random());  // any bits: half of them negative
            alike[i] = std::ldexp(static_cast<double>(random()), -70);
        }
        any[0] = 5e-324;
        any[n / 2] = std::numeric_limits<double>::max();
        any[n / 3] = std::numeric_limits<double>::infinity();
        for (const auto& values : {any, alike})
            expect_same({output("words", {kernels::ExactSum::limb_count + 1}, DType::i64, 0.0),
                         doubles(values)},
                        add_exactly, std::to_string(n) + " values");
    }
}

}  // namespace
}  // namespace plinth::test
