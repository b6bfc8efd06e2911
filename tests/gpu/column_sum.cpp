// SPDX-License-Identifier: Apache-2.0
#include "kernels/matmul.h"
#include "tests/gpu/device_test.h"

namespace plinth::test {
namespace {

using ColumnSumShapesTest = DeviceTest;

TEST_F(ColumnSumShapesTest, SumsAreThoseOfTheHost) {
    for (const DType dtype : {DType::f32, DType::bf16})
        for (const Shape& shape : {Shape{1, 1}, Shape{7, 3}, Shape{64, 8}, Shape{65, 257},
                                   Shape{1000, 12}, Shape{1025, 5}, Shape{3, 1037, 768},
                                   Shape{5, 12288}, Shape{20011, 264}, Shape{70001, 1}})
            expect_same(
                {output("dbias", {shape[-1]}, DType::f32, 1e-4), input("dy", shape, dtype)},
                [](const std::vector<View>& v, Stream& stream) {
                    kernels::column_sum(v[0], v[1], stream);
                },
                shape.text() + " " + std::string(name_of(dtype)));
}

}  // namespace
}  // namespace plinth::test
