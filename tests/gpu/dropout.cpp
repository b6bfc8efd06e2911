// SPDX-License-Identifier: Apache-2.0
#include "kernels/dropout.h"

#include "tests/gpu/device_test.h"
#include "tests/gpu/part_of.h"

namespace plinth::test {
namespace {

class DropoutDeviceTest : public DeviceTest {
  protected:
    static Operand samples(int64_t batch) {
        std::vector<int64_t> numbers;
        for (int64_t b = 0; b < batch; ++b)
            numbers.push_back(7 + b * 5'000'000'011);
        return input_of("samples", {batch}, numbers);
    }
    static kernels::Dropout options(float probability, int64_t first) {
        return {
            .probability = probability, .key = StepKey(3, "here", 5), .numbers = {.first = first}};
    }
    /// With and without a residual, apart and in place; equal bits.
    void compare(const Shape& shape, DType dtype, const kernels::Dropout& options) {
        const auto what = fmt::format("{} of {}, p {} from {}", shape.text(), name_of(dtype),
                                      options.probability, options.numbers.first);
        const Operand x = input("x", shape, dtype), numbers = samples(shape[0]);
        expect_same(
            {output("y", shape, dtype, 0.0), input("residual", shape, dtype), x, numbers},
            [=](const auto& v, Stream& s) { kernels::dropout(v[0], v[1], v[2], v[3], options, s); },
            what);
        expect_same(
            {in_out(x, 0.0), numbers},
            [=](const auto& v, Stream& s) { kernels::dropout(v[0], {}, v[0], v[1], options, s); },
            what + " in place");
    }
};

TEST_F(DropoutDeviceTest, TwoRunsOfASampleHaveTheMasksOfBoth) {
    for (const DType dtype : {DType::f32, DType::bf16})
        for (const auto& [first, turn, skipped] :
             std::vector<std::array<int64_t, 3>>{{0, 512, 2048}, {8, 301, 803}, {3, 1, 1}}) {
            kernels::Dropout dropout = options(0.3f, first);
            dropout.numbers.turn = turn;
            dropout.numbers.skipped = skipped;
            compare({2, 1024}, dtype, dropout);
        }
}

TEST_F(DropoutDeviceTest, TheMaskIsTheHosts) {
    for (const DType dtype : {DType::f32, DType::bf16})
        for (const Shape& shape : {Shape{1, 1}, Shape{3, 7}, Shape{2, 5, 8}, Shape{4, 1037},
                                   Shape{2, 16, 768}, Shape{1, (1 << 18) + 1}})
            for (const float probability : {0.1f, 0.5f})
                compare(shape, dtype, options(probability, 0));
}

TEST_F(DropoutDeviceTest, APartOfASampleHasItsPartOfTheMask) {
    for (const DType dtype : {DType::f32, DType::bf16})
        for (const int64_t first : {1, 3, 4, 1000, 1026})
            for (const int64_t n : {1, 2, 16, 264, 1031})
                compare({3, n}, dtype, options(0.3f, first));
    compare({2, 64}, DType::bf16, options(0.3f, (int64_t{1} << 34) + 4));
}

TEST_F(DropoutDeviceTest, AllOrAlmostNothingStays) {
    for (const float probability : {0.0f, 0.999f})
        compare({2, 515}, DType::f32, options(probability, 0));
}

TEST_F(DropoutDeviceTest, MoreSamplesThanAGridHolds) {
    compare({70001, 4}, DType::f32, options(0.5f, 0));
    compare({70001, 3}, DType::bf16, options(0.5f, 0));
}

}  // namespace
}  // namespace plinth::test
