// SPDX-License-Identifier: Apache-2.0
#include "kernels/fp8_history.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <limits>

#include "core/autograd/fp8_source.h"
#include "tests/support/expect_error.h"
#include "tests/support/op_fixture.h"

namespace plinth::test {
namespace {

using core::Tensor;
using kernels::fp8_history_steps;
using kernels::StepWord;

constexpr int64_t N = 6;
constexpr float infinity = std::numeric_limits<float>::infinity();

// The tensors of the history are those of core's roles.
static_assert(core::fp8_roles == 3);
static_assert(kernels::fp8_history_format(3) == core::format_of(core::Fp8Role::input));
static_assert(kernels::fp8_history_format(4) == core::format_of(core::Fp8Role::weight));
static_assert(kernels::fp8_history_format(5) == core::format_of(core::Fp8Role::gradient));

/// The history on the device, and the steps that it must hold, oldest first.
class Fp8HistoryKernels : public OpTest {
  protected:
    void SetUp() override {
        for (Tensor* all : {&history_, &count_})
            stream_.set_zero(all->out().data, all->in().bytes());
    }
    Tensor words_of(const std::vector<float>& largest) {
        Tensor words = Tensor::empty({N + 1}, DType::i64, *allocator_);
        kernels::fp8_history_words(words.out(), tensor(largest, {N}).in(), stream_);
        return words;
    }
    Tensor outcome_of(double updates_here) {
        std::vector<double> words(StepWord::count, 99.0);
        words[StepWord::updates_here] = updates_here;
        return Tensor::of(words, {StepWord::count}, *allocator_);
    }
    void push(const std::vector<float>& largest, const Tensor& outcome = {}) {
        kernels::fp8_history_push(history_.out(), count_.out(), words_of(largest).in(),
                                  outcome.in(), stream_);
    }
    void push_and_note(const std::vector<float>& largest, const Tensor& outcome = {}) {
        push(largest, outcome);
        steps_.push_back(largest);
        if (steps_.size() > fp8_history_steps) steps_.pop_front();
    }
    int64_t lasts() {
        Tensor scales = Tensor::empty({N}, DType::f32, *allocator_),
               lasts = Tensor::empty({1}, DType::i64, *allocator_);
        kernels::fp8_history_scales(scales.out(), lasts.out(), history_.in(), count_.in(), stream_);
        scales_ = scales.values<float>();
        return lasts.values<int64_t>()[0];
    }
    void expect_scales_of_noted_steps() {
        lasts();
        for (size_t i = 0; i < size_t{N}; ++i) {
            float most = 0.0f;
            for (const auto& step : steps_)
                most = std::max(most, step[i]);
            const float expected = most / (i % 3 == 2 ? 57344.0f : 448.0f);
            EXPECT_EQ(scales_[i], most > 0.0f ? std::max(expected, 0x1p-126f) : 0.0f) << i;
        }
    }

    Tensor history_ = Tensor::empty({fp8_history_steps, N}, DType::f32, *allocator_);
    Tensor count_ = Tensor::empty({1}, DType::i64, *allocator_);
    std::deque<std::vector<float>> steps_;
    std::vector<float> scales_;
};

std::vector<float> magnitudes(const std::string& name) {
    std::vector<float> values = random_values(N, name);
    for (float& value : values)
        value = std::abs(value);
    return values;
}

TEST_F(Fp8HistoryKernels, ScalesAreThoseOfTheLargestOfTheLastSteps) {
    expect_scales_of_noted_steps();
    for (int step = 0; step < 40; ++step) {
        std::vector<float> seen = magnitudes(std::to_string(step));
        if (step % 13 == 5) seen = {100.0f, 2e5f, 3e5f, 1e-44f, 0.0f, 5e5f};
        push_and_note(seen);
        expect_scales_of_noted_steps();
    }
    EXPECT_EQ(count_.values<int64_t>()[0], 40);
}

TEST_F(Fp8HistoryKernels, ATensorOfZerosHasNoScale) {
    push_and_note({1.0f, 0.0f, 1.0f, 0.0f, 1e-44f, 0.0f});
    expect_scales_of_noted_steps();
    EXPECT_EQ(scales_[1], 0.0f);
    EXPECT_EQ(scales_[4], 0x1p-126f);
}

TEST_F(Fp8HistoryKernels, AStepThatUpdatesNothingIsNotRemembered) {
    push_and_note(magnitudes("a"), outcome_of(1.0));
    expect_scales_of_noted_steps();
    push({9.0f, 9.0f, 9.0f, 9.0f, 9.0f, infinity}, outcome_of(0.0));
    expect_scales_of_noted_steps();
    EXPECT_EQ(count_.values<int64_t>()[0], 1);
    // A mutant that remembers it.
    push({9.0f, 9.0f, 9.0f, 9.0f, 9.0f, 9.0f});
    const auto before = scales_;
    lasts();
    EXPECT_NE(scales_, before);
}

// The oracle forgets: it pushes zeros until a tensor has no scale.
TEST_F(Fp8HistoryKernels, TellForHowManyStepsSomethingStaysKnown) {
    EXPECT_EQ(lasts(), -1);
    const std::vector<float> zeros(N, 0.0f);
    std::vector<float> without = magnitudes("a");
    without[3] = 0.0f;
    push(without);
    EXPECT_EQ(lasts(), -1) << "of one tensor nothing is known";
    for (const int older : {0, 1, 7}) {
        push(magnitudes("b"));
        for (int step = 0; step < older; ++step)
            push(without);  // the other tensors are known for longer
        const int64_t told = lasts();
        EXPECT_EQ(told, fp8_history_steps - 1 - older);
        for (int64_t step = 0; step <= told; ++step) {
            lasts();
            EXPECT_TRUE(std::ranges::none_of(scales_, [](float s) { return s == 0.0f; })) << step;
            push(zeros);
        }
        EXPECT_EQ(lasts(), -1) << "one step more than it was told to last";
    }
}

TEST_F(Fp8HistoryKernels, WordsAreBitsAndTheLargestOfAll) {
    const auto words = [&](std::vector<float> values) {
        const Tensor made = words_of(values);
        const auto found = made.values<int64_t>();
        for (size_t i = 0; i < values.size(); ++i)
            EXPECT_EQ(found[i], std::bit_cast<uint32_t>(values[i])) << i;
        return found.back();
    };
    EXPECT_EQ(words({0, 0, 0, 0, 0, 0}), 0);
    EXPECT_EQ(words({1, 2, 64, 0.5, 3, 1e-44f}), std::bit_cast<uint32_t>(64.0f));
    EXPECT_LT(words({1, 2, std::numeric_limits<float>::max(), 0, 3, 1}), kernels::fp8_not_finite);
    EXPECT_EQ(words({1, 2, 3, 0, infinity, 1}), kernels::fp8_not_finite);
    EXPECT_GT(words({std::nanf(""), 2, 3, 0, infinity, 1}), kernels::fp8_not_finite);
}

TEST_F(Fp8HistoryKernels, WhatDoesNotFitIsRefused) {
    Tensor scales = Tensor::empty({N + 3}, DType::f32, *allocator_),
           lasts = Tensor::empty({1}, DType::i64, *allocator_);
    expect_error(
        ErrorKind::internal,
        [&] {
            kernels::fp8_history_scales(scales.out(), lasts.out(), history_.in(), count_.in(),
                                        stream_);
        },
        "fp8_history_scales");
    expect_error(
        ErrorKind::internal,
        [&] { kernels::fp8_history_push(history_.out(), count_.out(), scales.in(), {}, stream_); },
        "fp8_history_push");
    expect_error(
        ErrorKind::internal, [&] { kernels::fp8_history_words(lasts.out(), scales.in(), stream_); },
        "fp8_history_words");
}

}  // namespace
}  // namespace plinth::test
