// SPDX-License-Identifier: Apache-2.0
#include "kernels/rms_norm.h"

#include "tests/gpu/device_test.h"

namespace plinth::test {
namespace {

using RmsNormTest = DeviceTest;

constexpr DType dtypes[] = {DType::f32, DType::bf16};

std::string text_of(const Shape& shape, DType dtype) {
    return shape.text() + " " + std::string(name_of(dtype));
}

const Shape shapes[] = {{1, 1},    {3, 7},    {2, 5, 8},  {130, 257}, {67, 768},  {64, 1024},
                        {9, 2048}, {5, 4096}, {65, 1600}, {3, 12288}, {2, 20000}, {3, 9001}};

TEST_F(RmsNormTest, Forward) {
    for (const DType dtype : dtypes)
        for (const Shape& shape : shapes)
            expect_same(
                {output("y", shape, dtype, usual_tolerance(dtype)),
                 output("rstd", {shape.rows()}, DType::f32, 1e-5), input("x", shape, dtype),
                 input("weight", {shape[-1]})},
                [](const std::vector<View>& v, Stream& stream) {
                    kernels::rms_norm_forward(v[0], v[1], v[2], v[3], 1e-6, stream);
                },
                text_of(shape, dtype));
}

/// Which gradients there are.
struct Outputs {
    bool dx = true, dweight = true;
};

std::vector<Operand> backward_operands(const Shape& shape, DType dtype, Outputs outputs) {
    const Operand none{.shape = {0}};
    return {outputs.dx ? output("dx", shape, dtype, usual_tolerance(dtype)) : none,
            outputs.dweight ? output("dweight", {shape[-1]}, DType::f32, 5e-5) : none,
            input("dy", shape, dtype),
            input("x", shape, dtype),
            input("weight", {shape[-1]}),
            input("rstd", {shape.rows()})};
}

void backward(const std::vector<View>& v, Stream& stream) {
    kernels::rms_norm_backward(v[0], v[1], v[2], v[3], v[4], v[5], stream);
}

TEST_F(RmsNormTest, Backward) {
    for (const DType dtype : dtypes)
        for (const Shape& shape : shapes)
            for (const Outputs outputs :
                 {Outputs{}, Outputs{.dx = false}, Outputs{.dweight = false}})
                expect_same(backward_operands(shape, dtype, outputs), backward,
                            text_of(shape, dtype));
}

TEST_F(RmsNormTest, ManyRows) {
    const Shape shape{4133, 1024};
    for (const DType dtype : dtypes)
        expect_same(backward_operands(shape, dtype, {}), backward, text_of(shape, dtype));
}

}  // namespace
}  // namespace plinth::test
