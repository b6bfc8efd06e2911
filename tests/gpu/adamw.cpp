// SPDX-License-Identifier: Apache-2.0
#include "kernels/adamw.h"

#include "tests/gpu/device_test.h"

namespace plinth::test {
namespace {

using AdamWTest = DeviceTest;

std::vector<Operand> state_of(int64_t n) {
    Operand second = input("second moment", {n});
    for (size_t i = 3; i < second.bytes.size(); i += sizeof(float))
        second.bytes[i] &= std::byte{0x7f};  // no sign
    return {in_out(input("weight", {n}), 0.0), in_out(input("first moment", {n}), 0.0),
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
    expect_same(
        state_of(1025),
        [&](const std::vector<View>& v, Stream& stream) {
            kernels::adamw(v[0], v[1], v[2], v[3], skipped, stream);
        },
        "skip");
}

}  // namespace
}  // namespace plinth::test
