// SPDX-License-Identifier: Apache-2.0
#include "core/ops/dropout.h"

#include <cmath>

#include "kernels/dropout.h"
#include "kernels/step_decision.h"
#include "tests/support/op_fixture.h"
#include "tests/support/same_bits.h"

namespace plinth::test {
namespace {

class DropoutTest : public OpTest {
  protected:
    core::Tensor samples(const std::vector<int64_t>& ids) {
        return core::Tensor::of(ids, {static_cast<int64_t>(ids.size())}, *allocator_);
    }
};

TEST_F(DropoutTest, KeepsTheStatedShareAndTheMean) {
    const int64_t n = 200001;
    const auto ids = samples({5});
    for (double p : {0.1, 0.5, 0.9}) {
        const auto y =
            run([&](const auto& in) { return core::ops::dropout(in[0], p, "here", ids); },
                {tensor(std::vector<float>(n, 1.0f), {1, n})});
        int64_t lost = 0;
        for (double value : y) {
            lost += value == 0.0;
            if (value != 0.0) {
                EXPECT_NEAR(value, 1.0 / (1.0 - p), 1e-6 / (1.0 - p));
            }
        }
        // Five standard deviations of a binomial.
        EXPECT_NEAR(static_cast<double>(lost), p * n, 5.0 * std::sqrt(p * (1.0 - p) * n)) << p;
    }
}

TEST_F(DropoutTest, GradientsUseTheSameMask) {
    const auto ids = samples({7, 9, 1000000007});
    expect_gradients_match_differences(
        [&](const auto& in) { return core::ops::dropout_add(in[0], in[1], 0.3, "here", ids); },
        {tensor(random_values(3 * 5 * 7, "residual"), {3, 5, 7}),
         tensor(random_values(3 * 5 * 7, "x"), {3, 5, 7})});
}

TEST_F(DropoutTest, TheMaskBelongsToTheSampleNotToItsPlaceInTheBatch) {
    const std::vector<float> ones(2 * 1037, 1.0f);
    const auto masks = [&](const std::vector<int64_t>& ids, const std::string& place,
                           int64_t step) {
        step_.step = step;
        const auto numbers = samples(ids);
        return run([&](const auto& in) { return core::ops::dropout(in[0], 0.5, place, numbers); },
                   {tensor(ones, {2, 1037})});
    };
    const auto ab = masks({3, 4}, "here", 1), ba = masks({4, 3}, "here", 1);
    EXPECT_TRUE(std::equal(ab.begin(), ab.begin() + 1037, ba.begin() + 1037));
    EXPECT_TRUE(std::equal(ab.begin() + 1037, ab.end(), ba.begin()));
    EXPECT_FALSE(std::equal(ab.begin(), ab.begin() + 1037, ab.begin() + 1037))
        << "two samples share a mask";
    EXPECT_NE(ab, masks({3, 4}, "there", 1)) << "two places share a mask";
    EXPECT_NE(ab, masks({3, 4}, "here", 2)) << "two steps share a mask";
}

TEST_F(DropoutTest, IsTheIdentityOutsideOfTraining) {
    training_ = false;
    const auto ids = samples({1});
    const auto x = random_values(33, "x");
    const auto y = run([&](const auto& in) { return core::ops::dropout(in[0], 0.5, "here", ids); },
                       {tensor(x, {1, 33})});
    EXPECT_EQ(y, std::vector<double>(x.begin(), x.end()));
}

TEST_F(DropoutTest, TheMaskIsWhatThePhiloxWordsOfTheElementsSay) {
    const RandomKey key(3, "here", 9);
    const float p = 0.3f;
    const auto threshold = static_cast<uint32_t>(static_cast<double>(p) * 0x1p32);
    for (const int64_t n : {1, 3, 255, 256, 257, 1031, 70001}) {
        for (const DType dtype : {DType::f32, DType::bf16}) {
            const int64_t sample = (int64_t{5} << 32) + 17;
            const auto ids = samples({sample, 2});
            const core::Tensor x =
                tensor(std::vector<float>(static_cast<size_t>(2 * n), 1.0f), {2, n}, dtype);
            core::Tensor y = core::Tensor::empty({2, n}, dtype, *allocator_);
            kernels::dropout(y.out(), {}, x.in(), ids.in(), {p, StepKey(3, "here", 9)}, stream_);
            const auto values = to_doubles(y);
            for (int64_t i = 0; i < 2 * n; ++i) {
                const auto element = static_cast<uint64_t>(i % n);
                const auto words =
                    key.words(element / 4, static_cast<uint64_t>(i < n ? sample : 2));
                ASSERT_EQ(values[static_cast<size_t>(i)] == 0.0, words[element % 4] < threshold)
                    << n << " elements, element " << i;
            }
        }
    }
}

TEST_F(DropoutTest, APartOfASampleHasTheMaskOfItsPlaceInTheWhole) {
    const int64_t n = 3 * 32768 + 517;
    const auto ids = samples({5, 8});
    const auto residual = random_values(2 * n, "residual"), x = random_values(2 * n, "x");
    /// Elements [begin, end) of both samples, called the elements from `first` on.
    const auto dropped = [&](int64_t begin, int64_t end, int64_t first) {
        std::vector<float> r, v;
        for (const int64_t sample : {int64_t{0}, n})
            for (int64_t i = sample + begin; i < sample + end; ++i) {
                r.push_back(residual[static_cast<size_t>(i)]);
                v.push_back(x[static_cast<size_t>(i)]);
            }
        return run(
            [&](const auto& in) {
                return core::ops::dropout_add(in[0], in[1], 0.4, "here", ids, {.first = first});
            },
            {tensor(r, {2, end - begin}), tensor(v, {2, end - begin})});
    };
    const auto whole = dropped(0, n, 0);
    for (const auto& [begin, end] : std::vector<std::pair<int64_t, int64_t>>{
             {0, 1}, {1, 2}, {3, 260}, {64, 128}, {255, 700}, {1022, 70001}, {32769, n}}) {
        std::vector<double> expected(whole.begin() + begin, whole.begin() + end);
        expected.insert(expected.end(), whole.begin() + n + begin, whole.begin() + n + end);
        EXPECT_EQ(dropped(begin, end, begin), expected) << begin << " " << end;
        if (end - begin > 20) {
            EXPECT_NE(dropped(begin, end, begin + 1), expected) << "the mutant";
        }
    }
}

TEST_F(DropoutTest, APartOfTwoRunsHasTheMasksOfBoth) {
    const auto ids = samples({5, 8});
    const int64_t n = 2000;
    const auto x = random_values(2 * n, "x");
    /// Elements [first, first + turn) and then those from `second` on of both samples.
    const auto dropped = [&](int64_t first, int64_t turn, int64_t second, int64_t count,
                             const kernels::ElementNumbers& numbers) {
        std::vector<float> v;
        for (const int64_t sample : {int64_t{0}, n})
            for (int64_t i = 0; i < count; ++i)
                v.push_back(
                    x[static_cast<size_t>(sample + (i < turn ? first + i : second + i - turn))]);
        return run(
            [&](const auto& in) { return core::ops::dropout(in[0], 0.4, "here", ids, numbers); },
            {tensor(v, {2, count})});
    };
    const auto whole = dropped(0, n, 0, n, {});
    for (const auto& [first, turn, second] :
         std::vector<std::array<int64_t, 3>>{{0, 400, 1200}, {8, 301, 1403}, {3, 1, 5}}) {
        const int64_t count = turn + 500;
        std::vector<double> expected;
        for (const int64_t sample : {int64_t{0}, n})
            for (int64_t i = 0; i < count; ++i)
                expected.push_back(whole[static_cast<size_t>(
                    sample + (i < turn ? first + i : second + i - turn))]);
        const kernels::ElementNumbers numbers{
            .first = first, .turn = turn, .skipped = second - first - turn};
        EXPECT_EQ(dropped(first, turn, second, count, numbers), expected) << first;
        EXPECT_NE(dropped(first, turn, second, count, {.first = first}), expected) << "the mutant";
    }
}

TEST_F(DropoutTest, WhatIsCapturedDropsByTheStepThatMemoryHolds) {
    const auto ids = samples({3, 4});
    const core::Tensor x = tensor(std::vector<float>(2 * 1037, 1.0f), {2, 1037});
    core::Tensor y = core::Tensor::empty({2, 1037}, DType::f32, *allocator_);
    core::Tensor number = core::Tensor::of<int64_t>({2}, {1}, *allocator_);
    const auto drop = [&](StepNumber step) {
        kernels::dropout(y.out(), {}, x.in(), ids.in(), {0.3f, StepKey(3, "here", step)}, stream_);
    };
    const auto in_memory = StepNumber::read_from(number.in().as<int64_t>());
    const auto graph = stream_.capture([&] { drop(in_memory); });
    const auto mutant = stream_.capture([&] { drop(2); });
    for (const int64_t step : {int64_t{2}, int64_t{3}, int64_t{1} << 40}) {
        drop(step);
        const auto expected = to_doubles(y);
        kernels::set_step_number(number.out(), step, stream_);
        graph->launch();
        EXPECT_EQ(to_doubles(y), expected) << step;
        mutant->launch();
        EXPECT_EQ(to_doubles(y) == expected, step == 2) << "one that keeps the step is not seen";
    }
}

TEST_F(DropoutTest, ThreadsDoNotChangeBits) {
    const auto x = tensor(random_values(2 * 70001, "x"), {2, 70001});
    const auto ids = samples({1, 2});
    expect_threads_do_not_change_bits([&](Stream& stream) {
        core::Tensor y = tensor(x.values<float>(), x.shape());
        kernels::dropout(y.out(), {}, x.in(), ids.in(), {0.25f, StepKey(1, "p")}, stream);
        return y.values<float>();
    });
}

}  // namespace
}  // namespace plinth::test
