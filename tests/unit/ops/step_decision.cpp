// SPDX-License-Identifier: Apache-2.0
#include "kernels/step_decision.h"

#include <array>
#include <bit>
#include <chrono>
#include <cmath>
#include <limits>
#include <optional>
#include <thread>

#include "tests/support/op_fixture.h"

namespace plinth::test {
namespace {

using kernels::ExactSum;
using kernels::StepTerms;
using kernels::StepWord;
using kernels::StepWords;

constexpr double infinity = std::numeric_limits<double>::infinity();

/// A step of some micro-batches, and what decides it.
struct Step {
    std::vector<double> losses{4.5, 4.25, 3.0, 2.5, 6.25, 6.0};  ///< by summand: sum, cross-entropy
    std::vector<int64_t> weights{3, 0, 4};
    int64_t parts = 1;  ///< summands of a slot
    std::vector<int64_t> times{1, 1, 1};
    std::vector<double> squares{1e-3, 2.5, 40.0};
    std::vector<int64_t> limbs{};  ///< in place of those of the squares
    bool has_bad_block = false;
    std::vector<int64_t> busy{1500000000};
    double updates = 7.0;
    std::optional<int64_t> fp8_largest = {};
    StepTerms known{.adamw = {.learning_rate = 3e-3, .beta2 = 0.95, .weight_decay = 0.1},
                    .clip = 0.5,
                    .known_updates = 6,
                    .bias_correction1 = {0.51, 0.52},
                    .bias_correction2 = {0.31, 0.32}};
};

class StepDecisionTest : public OpTest {
  protected:
    struct Decided {
        std::vector<double> outcome;
        std::vector<float> terms;
    };
    Decided decide(const Step& step) {
        const auto summands = static_cast<int64_t>(step.weights.size());
        const StepWords places{.slots = summands / step.parts,
                               .parts = step.parts,
                               .ranks = static_cast<int64_t>(step.busy.size())};
        std::vector<int64_t> words;
        for (size_t i = 0; i < step.weights.size(); ++i)
            words.insert(words.end(), {std::bit_cast<int64_t>(step.losses[2 * i]),
                                       std::bit_cast<int64_t>(step.losses[2 * i + 1]),
                                       step.weights[i], step.times[i]});
        ExactSum sum;
        for (const double square : step.squares)
            sum.add(square);
        if (step.limbs.empty()) words.insert(words.end(), sum.limbs().begin(), sum.limbs().end());
        words.insert(words.end(), step.limbs.begin(), step.limbs.end());
        words.push_back(step.has_bad_block ? 1 : 0);
        words.insert(words.end(), step.busy.begin(), step.busy.end());
        std::vector<double> before(StepWord::count, 99.0);
        before[StepWord::updates] = step.updates;
        core::Tensor outcome = core::Tensor::of(before, {StepWord::count}, *allocator_);
        core::Tensor terms =
            core::Tensor::empty({2, kernels::adamw_words}, DType::f32, *allocator_);
        kernels::decide_step(
            outcome.out(), terms.out(), core::Tensor::of(words, {places.count()}, *allocator_).in(),
            places, step.known,
            step.fp8_largest ? core::Tensor::of<int64_t>({*step.fp8_largest}, {1}, *allocator_).in()
                             : ConstView{},
            stream_);
        return {outcome.values<double>(), terms.values<float>()};
    }

    /// Words of the constants with and without weight decay, and whether they are used.
    static std::vector<float> expected_terms(kernels::AdamW options, bool goes) {
        std::vector<float> all(2 * kernels::adamw_words);
        for (int row = 0; row < 2; ++row) {
            if (row == 1) options.weight_decay = 0.0;
            float* words = all.data() + row * kernels::adamw_words;
            kernels::AdamWConstants(options).write(words);
            words[kernels::AdamWConstants::words] = goes ? 1.0f : 0.0f;
        }
        return all;
    }
};

TEST_F(StepDecisionTest, MeansClipAndConstantsAreThoseOfTheFormula) {
    Step step;
    const double norm = std::sqrt(1e-3 + 2.5 + 40.0) / 7.0;
    for (const double clip : {0.0, 0.5 * norm, 2.0 * norm}) {
        step.known.clip = clip;
        const Decided decided = decide(step);
        const std::vector<double> expected{7.0, 12.75 / 7.0, 1.0 / 7.0, norm, 1.0,
                                           8.0, 1.5,         1.5,       1.0};
        for (size_t i = 0; i < expected.size(); ++i)
            EXPECT_DOUBLE_EQ(decided.outcome[i], expected[i]) << i;
        kernels::AdamW options = step.known.adamw;
        options.bias_correction1 = 0.52;  // one update more than the host knows
        options.bias_correction2 = 0.32;
        const double found = decided.outcome[StepWord::gradient_norm];
        options.gradient_scale = (clip > 0 && found > clip ? clip / found : 1.0) / 7.0;
        EXPECT_EQ(decided.terms, expected_terms(options, true));
        options.bias_correction1 = 0.51;
        EXPECT_NE(decided.terms, expected_terms(options, true)) << "a mutant that counts wrongly";
    }
}

TEST_F(StepDecisionTest, TheHostMayKnowOfAllUpdates) {
    Step step;
    step.updates = 6.0;
    const Decided decided = decide(step);
    EXPECT_EQ(decided.outcome[StepWord::updates], 7.0);
    EXPECT_EQ(decided.terms[6], static_cast<float>(3e-3 / 0.51));
}

TEST_F(StepDecisionTest, WhatIsNotFiniteUpdatesNothingAndIsNotCounted) {
    for (const double bad : {std::nan(""), infinity, -infinity}) {
        Step step;
        step.losses[3] = bad;
        const Decided decided = decide(step);
        EXPECT_FALSE(std::isfinite(decided.outcome[StepWord::loss]));
        EXPECT_EQ(decided.outcome[StepWord::updates_here], 0.0);
        EXPECT_EQ(decided.outcome[StepWord::updates], 7.0);
        EXPECT_EQ(decided.terms[9], 0.0f);
        EXPECT_EQ(decided.terms[19], 0.0f);
    }
    Step step;
    step.has_bad_block = true;
    const Decided decided = decide(step);
    EXPECT_TRUE(std::isnan(decided.outcome[StepWord::gradient_norm]));
    EXPECT_EQ(decided.outcome[StepWord::updates_here], 0.0);
    EXPECT_EQ(decided.terms[9], 0.0f);
}

TEST_F(StepDecisionTest, WhatIsNotFiniteInEightBitsUpdatesNothing) {
    const Decided without = decide(Step{});
    for (const float largest : {0.0f, 448.0f, std::numeric_limits<float>::max()}) {
        Step step{.fp8_largest = std::bit_cast<uint32_t>(largest)};
        EXPECT_EQ(decide(step).outcome, without.outcome);
        EXPECT_EQ(decide(step).terms, without.terms);
    }
    for (const float largest : {std::numeric_limits<float>::infinity(), std::nanf("")}) {
        const Decided decided = decide(Step{.fp8_largest = std::bit_cast<uint32_t>(largest)});
        EXPECT_EQ(decided.outcome[StepWord::fp8_is_finite], 0.0);
        EXPECT_EQ(decided.outcome[StepWord::updates_here], 0.0);
        EXPECT_EQ(decided.outcome[StepWord::updates], 7.0);
        EXPECT_EQ(decided.outcome[StepWord::loss], without.outcome[StepWord::loss]);
        EXPECT_EQ(decided.terms[9], 0.0f);
        EXPECT_EQ(decided.terms[19], 0.0f);
    }
}

TEST_F(StepDecisionTest, AHostThatHasCountedOtherwiseIsTold) {
    for (const double updates : {5.0, 8.0, -1.0}) {
        Step step;
        step.updates = updates;
        const Decided decided = decide(step);
        EXPECT_EQ(decided.outcome[StepWord::updates], StepWord::other_count) << updates;
        EXPECT_EQ(decided.outcome[StepWord::updates_here], 0.0);
        EXPECT_EQ(decided.terms[9], 0.0f);
    }
}

// A loss in three parts, none of which can be added to another without rounding.
TEST_F(StepDecisionTest, PartsOfALossAreAddedInTheirOrder) {
    const double third = 1.0 / 3.0, tiny = 0x1p-54;
    Step step{.losses = {1.0, 1.0, tiny, tiny, third, third}, .weights = {2, 1, 4}, .parts = 3};
    const double in_order = (1.0 + tiny) + third, other = 1.0 + (tiny + third);
    ASSERT_NE(in_order / 7.0, other / 7.0);
    EXPECT_EQ(decide(step).outcome[StepWord::loss], in_order / 7.0);
    EXPECT_EQ(decide(step).outcome[StepWord::z_loss], 0.0);
    EXPECT_EQ(decide(step).outcome[StepWord::weight], 7.0);
}

// The limbs of two ranks' sums, added as plain integers: the mutant rounds them without carrying.
TEST_F(StepDecisionTest, SquaresOfSeveralRanksAreRoundedOnce) {
    const std::array<double, 3> mine{std::ldexp(double(0xa76420a5), 32 * 32 - 1074),
                                     std::ldexp(double(0xd7d3b6ab), 33 * 32 - 1074),
                                     std::ldexp(double(0x400001), 34 * 32 - 1074)},
        other{std::ldexp(double(0xc142aabf), 32 * 32 - 1074),
              std::ldexp(double(0xfa898807), 33 * 32 - 1074), 0.0};
    ExactSum first, second, both;
    for (const double square : mine) {
        first.add(square);
        both.add(square);
    }
    for (const double square : other) {
        second.add(square);
        both.add(square);
    }
    std::vector<int64_t> added;
    for (size_t i = 0; i < ExactSum::limb_count; ++i)
        added.push_back(first.limbs()[i] + second.limbs()[i]);
    Step step;
    step.limbs = added;
    const double norm = std::sqrt(both.value()) / 7.0,
                 mutant = std::sqrt(kernels::exact_value(added.data(), ExactSum::limb_count)) / 7.0;
    ASSERT_NE(norm, mutant);
    EXPECT_EQ(decide(step).outcome[StepWord::gradient_norm], norm);
}

TEST_F(StepDecisionTest, TheSlowestAndTheFastestRankAreFound) {
    for (const std::vector<int64_t>& busy :
         {std::vector<int64_t>{3, 1, 2}, std::vector<int64_t>{1, 2, 3},
          std::vector<int64_t>{2, 3, 1}}) {
        Step step;
        step.busy = busy;
        const Decided decided = decide(step);
        EXPECT_DOUBLE_EQ(decided.outcome[StepWord::slowest], 3e-9);
        EXPECT_DOUBLE_EQ(decided.outcome[StepWord::fastest], 1e-9);
    }
}

TEST_F(StepDecisionTest, ATimeIsThatSinceAnotherOne) {
    core::Tensor began = core::Tensor::of(std::vector<int64_t>{0}, {1}, *allocator_),
                 took = core::Tensor::of(std::vector<int64_t>{0}, {1}, *allocator_);
    kernels::mark_time(began.out(), {}, stream_);
    std::this_thread::sleep_for(std::chrono::milliseconds(3));
    kernels::mark_time(took.out(), began.in(), stream_);
    EXPECT_GE(took.values<int64_t>()[0], 3000000);
    EXPECT_LT(took.values<int64_t>()[0], began.values<int64_t>()[0]);
    kernels::mark_time(took.out(), {}, stream_);
    EXPECT_GE(took.values<int64_t>()[0], began.values<int64_t>()[0] + 3000000) << "no difference";
}

TEST_F(StepDecisionTest, EachLossIsGivenOnce) {
    for (const int64_t times : {0, 2}) {
        Step step;
        step.times[1] = times;
        const Decided decided = decide(step);
        EXPECT_EQ(decided.outcome[StepWord::updates], StepWord::other_losses) << times;
        EXPECT_EQ(decided.outcome[StepWord::updates_here], 0.0);
        EXPECT_EQ(decided.terms[9], 0.0f);
    }
}

TEST_F(StepDecisionTest, AStepWithoutTokensHasAWeightOfOne) {
    Step step{.losses = {0.0, 0.0}, .weights = {0}, .times = {1}, .squares = {}};
    const Decided decided = decide(step);
    EXPECT_EQ(decided.outcome[StepWord::weight], 1.0);
    EXPECT_EQ(decided.outcome[StepWord::loss], 0.0);
    EXPECT_EQ(decided.outcome[StepWord::gradient_norm], 0.0);
}

TEST_F(StepDecisionTest, ADecidedUpdateHasTheBitsOfOneThatTheHostDecides) {
    const int64_t n = 40009;
    kernels::AdamW options{.learning_rate = 1e-2,
                           .weight_decay = 0.1,
                           .bias_correction1 = 0.19,
                           .bias_correction2 = 0.0975,
                           .gradient_scale = 0.37};
    options.rounding = StepKey(7, "moments", 3);
    options.elements.first = 5;
    kernels::AdamW places;  // all that a decided update takes from the host
    places.rounding = options.rounding;
    places.elements = options.elements;
    const core::Tensor g = tensor(random_values(n, "g"), {n});
    for (const DType moments : {DType::f32, DType::bf16}) {
        const auto run = [&](const auto& update) {
            const std::vector<float> halves(static_cast<size_t>(n), 0.5f);
            core::Tensor w = tensor(random_values(n, "w"), {n}),
                         m = tensor(random_values(n, "m"), {n}, moments),
                         v = tensor(halves, {n}, moments);
            update(w.out(), m.out(), v.out());
            return std::array{to_doubles(w), to_doubles(m), to_doubles(v)};
        };
        const auto untouched = run([](View, View, View) {});
        const auto given =
            run([&](View w, View m, View v) { kernels::adamw(w, m, v, g.in(), options, stream_); });
        const auto decided = [&](size_t row, bool goes) {
            const core::Tensor terms =
                tensor(expected_terms(options, goes), {2, kernels::adamw_words});
            return run([&](View w, View m, View v) {
                kernels::adamw_decided(
                    {{w, m, v, g.in(), row == 0, places.rounding, places.elements}}, terms.in(),
                    stream_);
            });
        };
        EXPECT_EQ(given, decided(0, true));
        EXPECT_NE(given, decided(1, true)) << "the mutant without weight decay";
        EXPECT_EQ(untouched, decided(0, false));
    }
}

}  // namespace
}  // namespace plinth::test
