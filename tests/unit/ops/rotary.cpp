// SPDX-License-Identifier: Apache-2.0
#include "core/ops/rotary.h"

#include <cmath>
#include <complex>
#include <cstring>

#include "tests/support/cases/heads.h"
#include "tests/support/op_fixture.h"
#include "tests/support/same_bits.h"

namespace plinth::test {
namespace {

using core::Tensor;

kernels::Rotary options_of(const HeadsCase& c) {
    return {.heads = c.heads, .kv_heads = c.kv_heads, .theta = 1000.0};
}

/// The oracle: each pair is a complex number, multiplied with e^(i angle).
std::vector<double> multiplied(const HeadsCase& c, const std::vector<float>& x,
                               const std::vector<int32_t>& positions) {
    std::vector<double> y(x.begin(), x.end());
    const int64_t half = c.width / 2;
    for (int64_t token = 0; token < c.batch * c.tokens; ++token)
        for (int64_t head = 0; head < c.heads + c.kv_heads; ++head)
            for (int64_t j = 0; j < half; ++j) {
                const auto at = static_cast<size_t>(token * c.columns() + head * c.width + j);
                const size_t other = at + static_cast<size_t>(half);
                const double angle = positions[static_cast<size_t>(token)] *
                                     std::pow(1000.0, -2.0 * double(j) / double(c.width));
                const auto turned = std::complex(y[at], y[other]) * std::polar(1.0, angle);
                y[at] = turned.real();
                y[other] = turned.imag();
            }
    return y;
}

class RotaryTest : public OpTest {
  protected:
    /// Dense positions that restart at documents, or a few far ones.
    static std::vector<int32_t> positions(const HeadsCase& c, bool dense) {
        std::vector<int32_t> result;
        for (int64_t i = 0; i < c.batch * c.tokens; ++i)
            result.push_back(static_cast<int32_t>(dense ? i % c.tokens % 23 : 997 * i));
        return result;
    }
    Function function(const HeadsCase& c, bool dense) {
        return [&c, p = indices(positions(c, dense), {c.batch, c.tokens})](const auto& in) {
            return core::ops::rotary(in[0], p, options_of(c));
        };
    }
    void compare_with_oracle(DType dtype, double tolerance) {
        for (const HeadsCase& c : heads_test_cases)
            for (bool dense : {true, false}) {
                std::vector<float> x = random_values(c.elements(), "x");
                if (dtype == DType::bf16) x = rounded_to_bf16(x);
                const Tensor qkv = tensor(x, {c.batch, c.tokens, c.columns()}, dtype);
                expect_close(run(function(c, dense), {qkv}), multiplied(c, x, positions(c, dense)),
                             tolerance, c.name);
            }
    }
};

TEST_F(RotaryTest, Fp32EqualsComplexProductsInDouble) {
    compare_with_oracle(DType::f32, 1e-6);
}
TEST_F(RotaryTest, Bf16EqualsTheOracleOfRoundedInputs) {
    compare_with_oracle(DType::bf16, 4e-3);
}

TEST_F(RotaryTest, GradientsMatchFiniteDifferences) {
    for (const HeadsCase& c : heads_test_cases)
        expect_gradients_match_differences(
            function(c, true),
            {tensor(random_values(c.elements(), "x"), {c.batch, c.tokens, c.columns()})});
}

TEST_F(RotaryTest, Bf16GradientsFollowFp32) {
    for (const HeadsCase& c : heads_test_cases)
        expect_bf16_gradients_follow_fp32(
            function(c, true),
            {tensor(random_values(c.elements(), "x"), {c.batch, c.tokens, c.columns()})}, 6e-3);
}

TEST_F(RotaryTest, InPlaceEqualsApartAndBackwardUndoesForward) {
    const HeadsCase& c = heads_test_cases[2];
    const std::vector<float> x = random_values(c.elements(), "x");
    const Tensor p = indices(positions(c, true), {c.batch, c.tokens});
    Tensor qkv = tensor(x, {c.batch, c.tokens, c.columns()});
    const auto apart = run(function(c, true), {qkv});
    kernels::rotary(qkv.out(), qkv.in(), p.in(), options_of(c), false, stream_);
    EXPECT_EQ(to_doubles(qkv), apart);
    kernels::rotary(qkv.out(), qkv.in(), p.in(), options_of(c), true, stream_);
    expect_close(to_doubles(qkv), {x.begin(), x.end()}, 1e-6, "undone");
}

TEST_F(RotaryTest, ThreadsAndTheKindOfTableDoNotChangeBits) {
    const HeadsCase& c = heads_test_cases[3];
    const Tensor qkv = tensor(random_values(c.elements(), "x"), {1, c.tokens, c.columns()});
    const Tensor p = indices(positions(c, true), {1, c.tokens});
    const auto rotated = [&](Stream& stream) {
        Tensor y = tensor(std::vector<float>(static_cast<size_t>(c.elements())), qkv.shape());
        kernels::rotary(y.out(), qkv.in(), p.in(), options_of(c), false, stream);
        return to_doubles(y);
    };
    const auto expected = run(function(c, true), {qkv});
    EXPECT_EQ(rotated(stream_), expected);
    expect_threads_do_not_change_bits(rotated);
    // Tokens 68 and 69 stand at positions 22 and 0, too sparse for a table by position.
    const Tensor rows = qkv.reshape({c.tokens, c.columns()}).rows(68, 70);
    const auto sparse = run(
        [&](const auto& in) {
            return core::ops::rotary(in[0], indices({22, 0}, {1, 2}), options_of(c));
        },
        {rows.reshape({1, 2, c.columns()})});
    EXPECT_EQ(0, std::memcmp(sparse.data(), expected.data() + 68 * c.columns(),
                             sparse.size() * sizeof(double)));
}

TEST(RotaryFrequencies, Llama3StretchesLongWavelengths) {
    const kernels::Rotary plain{.theta = 500000.0};
    kernels::Rotary scaled = plain;
    scaled.factor = 8.0;
    const auto before = kernels::rotary_frequencies(128, plain);
    const auto after = kernels::rotary_frequencies(128, scaled);
    ASSERT_EQ(after.size(), 64u);
    EXPECT_EQ(before[0], 1.0);
    EXPECT_EQ(after[0], 1.0);
    int kept = 0, faded = 0, stretched = 0;
    for (size_t j = 0; j < after.size(); ++j) {
        const double wavelength = 2.0 * M_PI / before[j];
        const double s = (8192.0 / wavelength - 1.0) / 3.0;
        if (wavelength < 2048.0) {
            EXPECT_EQ(after[j], before[j]);
            ++kept;
        } else if (wavelength > 8192.0) {
            EXPECT_EQ(after[j], before[j] / 8.0);
            ++stretched;
        } else {
            EXPECT_NEAR(after[j], (1.0 - s) * before[j] / 8.0 + s * before[j], 1e-12);
            ++faded;
        }
    }
    EXPECT_EQ(kept, 29);
    EXPECT_EQ(faded, 6);
    EXPECT_EQ(stretched, 29);
}

TEST_F(RotaryTest, OddWidthsAreRefused) {
    const Tensor qkv = tensor(std::vector<float>(9), {1, 1, 9});
    EXPECT_THROW(run(
                     [&](const auto& in) {
                         return core::ops::rotary(in[0], indices({0}, {1, 1}), {});
                     },
                     {qkv}),
                 Error);
}

}  // namespace
}  // namespace plinth::test
