// SPDX-License-Identifier: Apache-2.0
#include "core/ops/cast.h"

#include <cmath>
#include <limits>

#include "kernels/cast.h"
#include "tests/support/op_fixture.h"
#include "tests/support/same_bits.h"

namespace plinth::test {
namespace {

class CastTest : public OpTest {};

TEST_F(CastTest, RoundsToNearestEven) {
    // 1 + 2^-8 lies halfway between two bf16 numbers, the even one is 1; 1 + 3 * 2^-8 goes up to
    // the even 1 + 2^-6.
    const auto y =
        run([](const auto& in) { return core::ops::cast(in[0], DType::bf16); },
            {tensor({1.0f + 0x1p-8f, 1.0f + 3 * 0x1p-8f, 1.0f + 0x1.8p-8f, -0.0f}, {4})});
    EXPECT_EQ(y[0], 1.0);
    EXPECT_EQ(y[1], 1.0 + 0x1p-6);
    EXPECT_EQ(y[2], 1.0 + 0x1p-7);
    EXPECT_TRUE(std::signbit(y[3]));
}

TEST_F(CastTest, KeepsInfinityAndNaN) {
    const float infinity = std::numeric_limits<float>::infinity();
    const auto y =
        run([](const auto& in) { return core::ops::cast(in[0], DType::bf16); },
            {tensor({infinity, -infinity, std::nanf(""), std::numeric_limits<float>::max()}, {4})});
    EXPECT_EQ(y[0], static_cast<double>(infinity));
    EXPECT_EQ(y[1], -static_cast<double>(infinity));
    EXPECT_TRUE(std::isnan(y[2]));
    EXPECT_EQ(y[3], static_cast<double>(infinity));
}

TEST_F(CastTest, GradientsComeBackInTheInputsType) {
    const auto there_and_back = [](const auto& in) {
        return core::ops::cast(core::ops::cast(in[0], DType::bf16), DType::f32);
    };
    const auto x = rounded_to_bf16(random_values(1031, "x"));
    std::vector<double> expected(x.begin(), x.end());
    expect_close(run(there_and_back, {tensor(x, {1031})}), expected, 0.0, "bf16 values survive");
    const auto r = rounded_to_bf16(random_values(1031, "projection"));
    expect_close(gradients(there_and_back, {tensor(x, {1031})}).inputs[0], {r.begin(), r.end()},
                 0.0, "dx");
}

TEST_F(CastTest, ThreadsDoNotChangeBits) {
    constexpr int64_t n = 100'003;
    for (const DType from : {DType::f32, DType::bf16}) {
        const DType to = from == DType::f32 ? DType::bf16 : DType::f32;
        const auto x = tensor(random_values(n, "x"), {n}, from);
        expect_threads_do_not_change_bits([&](Stream& stream) {
            core::Tensor y = core::Tensor::empty({n}, to, *allocator_);
            kernels::cast(y.out(), x.in(), stream);
            return to_doubles(y);
        });
    }
}

}  // namespace
}  // namespace plinth::test
