// SPDX-License-Identifier: Apache-2.0
#include "kernels/fp8_history.h"

#include <cmath>
#include <limits>
#include <numeric>

#include "tests/gpu/device_test.h"

namespace plinth::test {
namespace {

using kernels::fp8_history_steps;
using kernels::StepWord;
using Fp8HistoryDeviceTest = DeviceTest;

/// Magnitudes of any size, zeros among them.
std::vector<float> magnitudes(int64_t n) {
    std::vector<float> values(static_cast<size_t>(n));
    for (size_t i = 0; i < values.size(); ++i)
        values[i] = i % 5 == 2 ? 0.0f
                               : std::ldexp(1.0f + static_cast<float>(i % 17) / 32.0f,
                                            static_cast<int>(i * 7 % 90) - 60);
    return values;
}

constexpr int64_t sizes[] = {3, 144, 255, 258, 1539};

TEST_F(Fp8HistoryDeviceTest, ScalesAreThoseOfTheHost) {
    for (const int64_t n : sizes)
        for (const int64_t count : {0, 1, 5, 16, 17, 45})
            expect_same(
                {output("scales", {n}, DType::f32, 0.0), output("lasts", {1}, DType::i64, 0.0),
                 input_of("history", {fp8_history_steps, n}, magnitudes(fp8_history_steps * n)),
                 input_of("count", {1}, std::vector<int64_t>{count})},
                [](const std::vector<View>& v, Stream& stream) {
                    kernels::fp8_history_scales(v[0], v[1], v[2], v[3], stream);
                },
                fmt::format("{} tensors, {} steps", n, count));
}

TEST_F(Fp8HistoryDeviceTest, WordsAreThoseOfTheHost) {
    const float bad[] = {1.0f, std::numeric_limits<float>::infinity(), std::nanf("")};
    for (const int64_t n : sizes)
        for (const float value : bad) {
            std::vector<float> largest = magnitudes(n);
            largest[static_cast<size_t>(n / 2)] = value;
            expect_same(
                {output("words", {n + 1}, DType::i64, 0.0), input_of("largest", {n}, largest)},
                [](const std::vector<View>& v, Stream& stream) {
                    kernels::fp8_history_words(v[0], v[1], stream);
                },
                fmt::format("{} tensors with {}", n, value));
        }
}

TEST_F(Fp8HistoryDeviceTest, OneMoreStepUnlessItUpdatesNothing) {
    for (const int64_t n : sizes)
        for (const int64_t count : {0, 7, 16, 33})
            for (const int goes : {0, 1, 2}) {
                std::vector<int64_t> bits(static_cast<size_t>(n) + 1);
                std::iota(bits.begin(), bits.end(), int64_t{0x3f800000});
                std::vector<double> outcome(StepWord::count, 3.0);
                outcome[StepWord::updates_here] = goes;
                expect_same(
                    {in_out(input_of("history", {fp8_history_steps, n},
                                     magnitudes(fp8_history_steps * n)),
                            0.0),
                     in_out(input_of("count", {1}, std::vector<int64_t>{count}), 0.0),
                     input_of("words", {n + 1}, bits),
                     input_of("outcome", {StepWord::count}, outcome)},
                    [&](const std::vector<View>& v, Stream& stream) {
                        kernels::fp8_history_push(
                            v[0], v[1], v[2], goes == 2 ? ConstView() : ConstView(v[3]), stream);
                    },
                    fmt::format("{} tensors after {} steps, {}", n, count, goes));
            }
}

}  // namespace
}  // namespace plinth::test
