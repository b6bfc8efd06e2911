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

/// Cuts views of one buffer each into parts that begin at odd places, some of no elements: more
/// than one launch has room for.
std::vector<kernels::AdamWPart> parts_of(const std::vector<View>& v) {
    const auto cut = [](const View& whole, int64_t begin, int64_t size) {
        auto* data = static_cast<std::byte*>(whole.data);
        return View(data + static_cast<size_t>(begin) * size_of(whole.dtype), whole.dtype, {size},
                    whole.device);
    };
    std::vector<kernels::AdamWPart> parts;
    const int64_t n = v[0].elements();
    for (int64_t at = 0; at < n;) {
        const auto number = static_cast<int64_t>(parts.size());
        const int64_t wanted = number % 5 == 3    ? 0
                               : number % 40 == 7 ? 5003
                                                  : 8 * (number % 11) + number % 3;
        const int64_t size = std::min(wanted, n - at);
        parts.push_back(
            {.weight = cut(v[0], at, size),
             .first_moment = cut(v[1], at, size),
             .second_moment = cut(v[2], at, size),
             .gradient = cut(v[3], at, size),
             .decays = number % 4 != 2,
             .rounding = StepKey(3, "moments", number),
             .elements = {.first = 3 * number, .skipped = number % 2, .width = 37, .stride = 64}});
        at += size + 1 + number % 4;
    }
    return parts;
}

TEST_F(AdamWTest, ManyPartsAreUpdatedAsOnTheHost) {
    for (const DType moments : {DType::f32, DType::bf16})
        for (const int64_t n : {1, 40009})
            expect_same(
                state_of(n, moments),
                [&](const std::vector<View>& v, Stream& stream) {
                    const auto parts = parts_of(v);
                    if (n > 1) {
                        ASSERT_GT(parts.size(), 150u);
                    }
                    kernels::adamw_parts(parts, options, stream);
                },
                fmt::format("{} elements, moments in {}", n, name_of(moments)));
}

TEST_F(AdamWTest, ManyPartsAreUpdatedAsDecided) {
    for (const float goes : {1.0f, 0.0f})
        for (const DType moments : {DType::f32, DType::bf16}) {
            std::vector<float> terms(2 * kernels::adamw_words, goes);
            kernels::AdamWConstants(options).write(terms.data());
            kernels::AdamWConstants(kernels::without_decay(options))
                .write(terms.data() + kernels::adamw_words);
            std::vector<Operand> operands = state_of(20011, moments);
            operands.push_back(input_of("terms", {2, kernels::adamw_words}, terms));
            expect_same(
                operands,
                [](const std::vector<View>& v, Stream& stream) {
                    kernels::adamw_decided(parts_of(v), v[4], stream);
                },
                fmt::format("goes {}, moments in {}", goes, name_of(moments)));
        }
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
