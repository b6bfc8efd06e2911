// SPDX-License-Identifier: Apache-2.0
#include "kernels/add.h"

#include "tests/gpu/device_test.h"
#include "tests/gpu/part_of.h"

namespace plinth::test {
namespace {

using AddTest = DeviceTest;

constexpr DType dtypes[] = {DType::f32, DType::bf16};
constexpr int64_t sizes[] = {1, 2, 7, 31, 257, 4099, (int64_t{1} << 20) + 3};

TEST_F(AddTest, GivesTheBitsOfTheHost) {
    for (const DType dtype : dtypes)
        for (const int64_t n : sizes) {
            const auto what = fmt::format("{} of {}", n, name_of(dtype));
            const Operand y = output("y", {n}, dtype, 0.0), a = input("a", {n}, dtype),
                          b = input("b", {n}, dtype);
            expect_same(
                {y, a, b}, [](const auto& v, Stream& s) { kernels::add(v[0], v[1], v[2], s); },
                what);
            expect_same(
                {in_out(a, 0.0), b},
                [](const auto& v, Stream& s) { kernels::add(v[0], v[0], v[1], s); },
                what + " in place");
            expect_same(
                {in_out(a, 0.0), y},
                [](const auto& v, Stream& s) {
                    kernels::scale(v[0], v[0], 0.3f, s);
                    kernels::fill(v[1], 1.7f, s);
                },
                what + " scaled and filled");
        }
}

TEST_F(AddTest, TakesViewsThatBeginBetweenVectors) {
    for (const DType dtype : dtypes)
        for (const int64_t n : {2, 300, 5001})
            expect_same(
                {in_out(input("y", {n}, dtype), 0.0), in_out(input("z", {n}, dtype), 0.0),
                 input("a", {n}, dtype), input("b", {n}, dtype)},
                [](const auto& v, Stream& s) {
                    kernels::add(part_of(v[0], 1), part_of(v[2], 1), part_of(v[3], 1), s);
                    kernels::scale(part_of(v[1], 1), part_of(v[2], 1), -2.5f, s);
                },
                fmt::format("{} of {}", n, name_of(dtype)));
}

TEST_F(AddTest, AddsARowToEachRow) {
    for (const DType dtype : dtypes)
        for (const Shape& shape :
             {Shape{1, 1}, Shape{3, 7}, Shape{5, 2, 8}, Shape{11, 96}, Shape{33, 768},
              Shape{9, 4100}, Shape{2, 12288}, Shape{1031, 257}}) {
            const auto what = fmt::format("{} of {}", shape.text(), name_of(dtype));
            const Operand x = input("x", shape, dtype), row = input("row", {shape[-1]});
            expect_same(
                {output("y", shape, dtype, 0.0), x, row},
                [](const auto& v, Stream& s) { kernels::add_row(v[0], v[1], v[2], s); }, what);
            expect_same(
                {in_out(x, 0.0), row},
                [](const auto& v, Stream& s) { kernels::add_row(v[0], v[0], v[1], s); },
                what + " in place");
        }
}

}  // namespace
}  // namespace plinth::test
