// SPDX-License-Identifier: Apache-2.0
#include "kernels/rms_norm.h"

#include "kernels/add.h"
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

std::vector<Operand> forward_operands(const Shape& shape, DType dtype, bool has_branch) {
    const Operand none{.shape = {0}};
    return {output("y", shape, dtype, usual_tolerance(dtype)),
            output("rstd", {shape.rows()}, DType::f32, 1e-5),
            has_branch ? output("sum", shape, dtype, 0.0) : none,
            input("x", shape, dtype),
            has_branch ? input("branch", shape, dtype) : none,
            input("weight", {shape[-1]})};
}

void forward(const std::vector<View>& v, Stream& stream) {
    kernels::rms_norm_forward(v[0], v[1], v[2], v[3], v[4], v[5], 1e-6, stream);
}

TEST_F(RmsNormTest, Forward) {
    for (const DType dtype : dtypes)
        for (const Shape& shape : shapes)
            for (const bool has_branch : {false, true})
                expect_same(forward_operands(shape, dtype, has_branch), forward,
                            text_of(shape, dtype));
}

TEST_F(RmsNormTest, ForwardHasTheBitsOfTheSumAndTheNorm) {
    for (const DType dtype : dtypes)
        for (const Shape& shape : shapes) {
            const auto operands = forward_operands(shape, dtype, true);
            EXPECT_EQ(on_device(operands, forward),
                      on_device(operands,
                                [](const std::vector<View>& v, Stream& stream) {
                                    kernels::add(v[2], v[3], v[4], stream);
                                    kernels::rms_norm_forward(v[0], v[1], {}, v[2], {}, v[5], 1e-6,
                                                              stream);
                                }))
                << text_of(shape, dtype);
        }
}

/// Which gradients there are, that of the sum among them.
struct Outputs {
    bool dx = true, dweight = true, dsum = false;
};

std::vector<Operand> backward_operands(const Shape& shape, DType dtype, Outputs outputs) {
    const Operand none{.shape = {0}};
    return {outputs.dx ? output("dx", shape, dtype, usual_tolerance(dtype)) : none,
            outputs.dweight ? output("dweight", {shape[-1]}, DType::f32, 5e-5) : none,
            input("dy", shape, dtype),
            outputs.dsum ? input("dsum", shape, dtype) : none,
            input("x", shape, dtype),
            input("weight", {shape[-1]}),
            input("rstd", {shape.rows()})};
}

void backward(const std::vector<View>& v, Stream& stream) {
    kernels::rms_norm_backward(v[0], v[1], v[2], v[3], v[4], v[5], v[6], stream);
}

TEST_F(RmsNormTest, Backward) {
    for (const DType dtype : dtypes)
        for (const Shape& shape : shapes)
            for (const Outputs outputs : {Outputs{}, Outputs{.dx = false},
                                          Outputs{.dweight = false}, Outputs{.dsum = true}})
                expect_same(backward_operands(shape, dtype, outputs), backward,
                            text_of(shape, dtype));
}

TEST_F(RmsNormTest, BackwardHasTheBitsOfTheNormAndTheSum) {
    for (const DType dtype : dtypes)
        for (const Shape& shape : shapes) {
            const auto operands = backward_operands(shape, dtype, {.dsum = true});
            const auto expected =
                on_device(operands, [](const std::vector<View>& v, Stream& stream) {
                    kernels::rms_norm_backward(v[0], v[1], v[2], {}, v[4], v[5], v[6], stream);
                    kernels::add(v[0], v[3], v[0], stream);
                });
            EXPECT_EQ(on_device(operands, backward), expected) << text_of(shape, dtype);
            auto in_place = operands;
            in_place[0] = in_out(operands[3], usual_tolerance(dtype));
            const auto result = on_device(in_place, [](const std::vector<View>& v, Stream& stream) {
                kernels::rms_norm_backward(v[0], v[1], v[2], v[0], v[4], v[5], v[6], stream);
            });
            EXPECT_EQ(result[0], expected[0]) << "in place " << text_of(shape, dtype);
        }
}

TEST_F(RmsNormTest, ManyRows) {
    const Shape shape{4133, 1024};
    for (const DType dtype : dtypes)
        expect_same(backward_operands(shape, dtype, {.dsum = true}), backward,
                    text_of(shape, dtype));
}

}  // namespace
}  // namespace plinth::test
