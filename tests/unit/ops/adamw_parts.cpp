// SPDX-License-Identifier: Apache-2.0
// Updates of many parameters in one call.
#include <cmath>
#include <utility>

#include "kernels/adamw.h"
#include "tests/support/expect_error.h"
#include "tests/support/op_fixture.h"
#include "tests/support/same_bits.h"

namespace plinth::test {
namespace {

class AdamWPartsTest : public OpTest {};

constexpr kernels::AdamW of_step_3{.learning_rate = 1e-2,
                                   .beta1 = 0.9,
                                   .beta2 = 0.95,
                                   .eps = 1e-8,
                                   .weight_decay = 0.1,
                                   .bias_correction1 = 1.0 - 0.9 * 0.9 * 0.9,
                                   .bias_correction2 = 1.0 - 0.95 * 0.95 * 0.95,
                                   .gradient_scale = 0.25};

/// Parts of odd sizes in one buffer with gaps between them, decaying and not, one of no elements.
struct ManyParts {
    core::Tensor w, m, v;
    std::vector<kernels::AdamWPart> parts;

    std::vector<double> all() const {
        std::vector<double> values = to_doubles(w);
        for (const core::Tensor& moments : {m, v}) {
            const std::vector<double> more = to_doubles(moments);
            values.insert(values.end(), more.begin(), more.end());
        }
        return values;
    }
};

TEST_F(AdamWPartsTest, HaveTheBitsOfOneCallForEach) {
    const int64_t sizes[] = {1, 0, 5, 32768, 32769, 7, 70001, 2, 1024};
    int64_t n = 0;
    for (const int64_t size : sizes)
        n += size + 3;
    const auto weights = random_values(n, "w"), means = random_values(n, "m");
    auto squares = random_values(n, "v");
    for (float& square : squares)
        square = std::abs(square);
    const core::Tensor g = tensor(random_values(n, "g"), {n});
    for (const DType moments : {DType::f32, DType::bf16}) {
        const auto fresh = [&] {
            ManyParts many{tensor(weights, {n}),
                           tensor(means, {n}, moments),
                           tensor(squares, {n}, moments),
                           {}};
            int64_t at = 1;
            for (const int64_t size : sizes) {
                const auto number = many.parts.size();
                many.parts.push_back({.weight = many.w.rows(at, at + size).out(),
                                      .first_moment = many.m.rows(at, at + size).out(),
                                      .second_moment = many.v.rows(at, at + size).out(),
                                      .gradient = g.rows(at, at + size).in(),
                                      .decays = number % 3 != 1,
                                      .rounding = StepKey(5, "moments", number),
                                      .elements = {.first = static_cast<int64_t>(100 * number)}});
                at += size + 3;
            }
            return many;
        };
        ManyParts single = fresh();
        for (const kernels::AdamWPart& part : single.parts) {
            kernels::AdamW options = of_step_3;
            if (!part.decays) options.weight_decay = 0.0;
            options.rounding = part.rounding;
            options.elements = part.elements;
            kernels::adamw(part.weight, part.first_moment, part.second_moment, part.gradient,
                           options, stream_);
        }
        const auto expected = single.all();
        EXPECT_NE(expected, fresh().all());
        expect_threads_do_not_change_bits([&](Stream& stream) {
            ManyParts many = fresh();
            kernels::adamw_parts(many.parts, of_step_3, stream);
            const auto found = many.all();
            EXPECT_EQ(found, expected) << name_of(moments);
            return found;
        });
        const auto changed = [&](auto&& change) {
            ManyParts many = fresh();
            change(many.parts);
            kernels::adamw_parts(many.parts, of_step_3, stream_);
            return many.all();
        };
        EXPECT_NE(changed([](auto& parts) { parts[4].decays = !parts[4].decays; }), expected);
        EXPECT_NE(changed([](auto& parts) { parts.pop_back(); }), expected);
        EXPECT_EQ(changed([](auto& parts) { std::swap(parts[3], parts[6]); }), expected);
        const auto rounded_otherwise =
            changed([](auto& parts) { parts[6].rounding = parts[3].rounding; });
        EXPECT_EQ(rounded_otherwise == expected, moments == DType::f32);
    }
}

TEST_F(AdamWPartsTest, WithMomentsOfTwoTypesAreRefused) {
    core::Tensor x = tensor({1.0f, 2.0f}, {2}), half = tensor({1.0f, 2.0f}, {2}, DType::bf16);
    const kernels::AdamWPart wide{
        .weight = x.out(), .first_moment = x.out(), .second_moment = x.out(), .gradient = x.in()};
    kernels::AdamWPart narrow = wide;
    narrow.first_moment = narrow.second_moment = half.out();
    expect_error(
        ErrorKind::internal,
        [&] {
            kernels::adamw_parts({wide, narrow}, of_step_3, stream_);
        },
        "adamw", "moments");
    kernels::adamw_parts({}, of_step_3, stream_);
}

}  // namespace
}  // namespace plinth::test
