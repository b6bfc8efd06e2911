// SPDX-License-Identifier: Apache-2.0
#include "kernels/step_decision.h"

#include <bit>
#include <cmath>
#include <limits>

#include "tests/gpu/device_test.h"

namespace plinth::test {
namespace {

using kernels::ExactSum;
using kernels::StepWord;
using kernels::StepWords;
using StepDecisionDeviceTest = DeviceTest;

constexpr kernels::StepTerms known{
    .adamw = {.learning_rate = 3e-3, .weight_decay = 0.1},
    .clip = 1.0,
    .known_updates = 6,
    .bias_correction1 = {1.0 - 0.4782969, 1.0 - 0.43046721},
    .bias_correction2 = {1.0 - 0.69833729609375, 1.0 - 0.6634204312890625}};

/// Slots with losses of any size, each of some parts, and a gradient of which the squares have any
/// size.
std::vector<Operand> step_of(const StepWords& places, double updates, double bad_loss,
                             int64_t bad_blocks, int64_t fp8_largest = 0x7f7fffff) {
    std::vector<int64_t> given;
    for (int64_t i = 0; i < places.slots * places.parts; ++i) {
        const double loss = 8000.0 + std::sin(static_cast<double>(i)) * 1e3;
        for (const double number : {loss * (1.0 + 1e-5), loss + (i == 0 ? bad_loss : 0.0)})
            given.push_back(std::bit_cast<int64_t>(number));
        given.insert(given.end(), {1024 - i % 3, 1});
    }
    ExactSum sum;
    for (int i = 0; i < 1000; ++i)
        sum.add(std::ldexp(1.0 + i / 1001.0, i % 60 - 40));
    for (const int64_t limb : sum.limbs())
        given.push_back(limb * places.ranks);  // as sums over ranks are: above 2^32
    given.push_back(bad_blocks);
    for (int64_t rank = 0; rank < places.ranks; ++rank)
        given.push_back(1000000007 * (rank * 7 % 5));
    std::vector<double> outcome(StepWord::count, 0.0);
    outcome[StepWord::updates] = updates;
    return {in_out(input_of("outcome", {StepWord::count}, outcome), 0.0),
            output("terms", {2, kernels::adamw_words}, DType::f32, 0.0),
            input_of("words", {places.count()}, given),
            input_of("8-bit", {1}, std::vector<int64_t>{fp8_largest})};
}

auto decide(const StepWords& places) {
    return [places](const std::vector<View>& v, Stream& stream) {
        kernels::decide_step(v[0], v[1], v[2], places, known, v[3], stream);
    };
}

// Additions, divisions, roots and scalings in double, without a contraction: the same bits.
TEST_F(StepDecisionDeviceTest, DecisionsAreThoseOfTheHost) {
    for (const StepWords& places :
         {StepWords{1, 1, 1}, StepWords{2, 3, 6}, StepWords{31, 1, 4}, StepWords{1000, 2, 64}})
        for (const double updates : {6.0, 7.0, 8.0})
            expect_same(step_of(places, updates, 0.0, 0), decide(places),
                        std::to_string(places.slots) + " slots after " + std::to_string(updates));
}

TEST_F(StepDecisionDeviceTest, WhatIsNotFiniteIsSkipped) {
    const double infinity = std::numeric_limits<double>::infinity();
    for (const auto& [bad_loss, bad_blocks] :
         {std::pair{std::nan(""), 0}, std::pair{infinity, 0}, std::pair{0.0, 3}}) {
        const auto results = on_device(step_of({4, 2}, 7.0, bad_loss, bad_blocks), decide({4, 2}));
        EXPECT_EQ(results[0][StepWord::updates_here], 0.0);
        EXPECT_EQ(results[0][StepWord::updates], 7.0);
        EXPECT_EQ(results[1][9], 0.0);
        EXPECT_EQ(results[1][19], 0.0);
    }
}

TEST_F(StepDecisionDeviceTest, WhatIsNotFiniteInEightBitsIsSkipped) {
    const StepWords places{.slots = 4, .parts = 2};
    for (const int64_t bits : {0, 0x7f7fffff, 0x7f800000, 0x7fc00000}) {
        const auto results = on_device(step_of(places, 7.0, 0.0, 0, bits), decide(places));
        const double goes = bits < 0x7f800000 ? 1.0 : 0.0;
        EXPECT_EQ(results[0][StepWord::fp8_is_finite], goes);
        EXPECT_EQ(results[0][StepWord::updates_here], goes);
        EXPECT_EQ(results[0][StepWord::updates], 7.0 + goes);
        EXPECT_EQ(results[1][9], goes);
        expect_same(step_of(places, 7.0, 0.0, 0, bits), decide(places),
                    fmt::format("bits {:x}", bits));
    }
}

TEST_F(StepDecisionDeviceTest, TimeGoesOn) {
    const auto results =
        on_device({output("began", {1}, DType::i64, 0.0), output("took", {1}, DType::i64, 0.0),
                   output("ended", {1}, DType::i64, 0.0)},
                  [](const std::vector<View>& v, Stream& stream) {
                      kernels::mark_time(v[0], {}, stream);
                      kernels::mark_time(v[1], v[0], stream);
                      kernels::mark_time(v[2], {}, stream);
                  });
    EXPECT_GE(results[1][0], 0.0);
    EXPECT_LT(results[1][0], 10e9);
    EXPECT_GE(results[2][0], results[0][0]);
}

// The terms as they come from the decision: one function, no contraction, the same bits.
TEST_F(StepDecisionDeviceTest, DecidedUpdatesAreThoseOfTheHost) {
    for (const int64_t n : {1, 5, 1024, 1031, 1000003})
        for (const float goes : {1.0f, 0.0f}) {
            std::vector<float> terms(2 * kernels::adamw_words, goes);
            kernels::AdamWConstants({.learning_rate = 3e-3,
                                     .weight_decay = 0.1,
                                     .bias_correction1 = 0.19,
                                     .bias_correction2 = 0.0975,
                                     .gradient_scale = 0.37})
                .write(terms.data() + kernels::adamw_words);
            Operand second = input("second moment", {n});
            for (size_t i = 3; i < second.bytes.size(); i += sizeof(float))
                second.bytes[i] &= std::byte{0x7f};  // no sign
            expect_same(
                {in_out(input("weight", {n}), 0.0), in_out(input("first moment", {n}), 0.0),
                 in_out(second, 0.0), input("gradient", {n}),
                 input_of("terms", {2, kernels::adamw_words}, terms)},
                [](const std::vector<View>& v, Stream& stream) {
                    kernels::adamw_decided({{v[0], v[1], v[2], v[3], /*decays=*/false}}, v[4],
                                           stream);
                },
                "n " + std::to_string(n));
        }
}

}  // namespace
}  // namespace plinth::test
