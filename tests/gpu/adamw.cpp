// SPDX-License-Identifier: Apache-2.0
#include "kernels/adamw.h"

#include "tests/gpu/device_test.h"

namespace plinth::test {
namespace {

using AdamWTest = DeviceTest;

std::vector<Operand> state_of(int64_t n, DType moments = DType::f32) {
    Operand second = input("second moment", {n}, moments);
    const size_t size = size_of(moments);
    for (size_t i = size - 1; i < second.bytes.size(); i += size)
        second.bytes[i] &= std::byte{0x7f};  // no sign
    return {in_out(input("weight", {n}), 0.0), in_out(input("first moment", {n}, moments), 0.0),
            in_out(second, 0.0), input("gradient", {n})};
}

constexpr kernels::AdamW options{.learning_rate = 3e-3,
                                 .weight_decay = 0.1,
                                 .bias_correction1 = 0.19,
                                 .bias_correction2 = 0.0975,
                                 .gradient_scale = 0.37};

// The arithmetic is one function, without a contraction: the same bits.
TEST_F(AdamWTest, UpdatesAreThoseOfTheHost) {
    for (const int64_t n : {1, 3, 4, 5, 1023, 1024, 1031, 1000003})
        expect_same(
            state_of(n),
            [](const std::vector<View>& v, Stream& stream) {
                kernels::adamw(v[0], v[1], v[2], v[3], options, stream);
            },
            "n " + std::to_string(n));
}

TEST_F(AdamWTest, MemoryNeedNotBeAligned) {
    expect_same(
        state_of(4099),
        [](const std::vector<View>& v, Stream& stream) {
            const auto rest = [](const View& view) {
                return View(static_cast<float*>(view.data) + 1, view.dtype, {view.elements() - 1},
                            view.device);
            };
            kernels::adamw(rest(v[0]), rest(v[1]), rest(v[2]), rest(v[3]), options, stream);
        },
        "from the second element on");
}

TEST_F(AdamWTest, ASkippedStepChangesNothing) {
    kernels::AdamW skipped = options;
    skipped.skip = true;
    for (const DType moments : {DType::f32, DType::bf16})
        expect_same(
            state_of(1025, moments),
            [&](const std::vector<View>& v, Stream& stream) {
                kernels::adamw(v[0], v[1], v[2], v[3], skipped, stream);
            },
            "skip");
}

// Philox and the rounding are one function on both, too.
TEST_F(AdamWTest, RoundedMomentsAreThoseOfTheHost) {
    for (const int64_t n : {1, 3, 4, 5, 1023, 1024, 1031, 1000003})
        for (const ElementRows& elements :
             {ElementRows{}, ElementRows{.first = int64_t{3} << 33}, ElementRows{.first = 1023},
              ElementRows{.first = 64, .skipped = 12, .width = 96, .stride = 768},
              ElementRows{.first = 7, .skipped = 5, .width = 129, .stride = 301}}) {
            kernels::AdamW rounding = options;
            rounding.rounding = StepKey(3, "moments.w", 17);
            rounding.elements = elements;
            expect_same(
                state_of(n, DType::bf16),
                [&](const std::vector<View>& v, Stream& stream) {
                    kernels::adamw(v[0], v[1], v[2], v[3], rounding, stream);
                },
                "n " + std::to_string(n) + " from " + std::to_string(elements.first));
        }
}

TEST_F(AdamWTest, RoundedMomentsNeedNotBeAligned) {
    expect_same(
        state_of(4099, DType::bf16),
        [](const std::vector<View>& v, Stream& stream) {
            const auto rest = [](const View& view) {
                return View(static_cast<std::byte*>(view.data) + size_of(view.dtype), view.dtype,
                            {view.elements() - 1}, view.device);
            };
            kernels::AdamW rounding = options;
            rounding.elements.first = 1;
            kernels::adamw(rest(v[0]), rest(v[1]), rest(v[2]), rest(v[3]), rounding, stream);
        },
        "from the second element on");
}

}  // namespace
}  // namespace plinth::test
