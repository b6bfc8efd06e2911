// SPDX-License-Identifier: Apache-2.0
#include "kernels/layer_norm.h"

#include "kernels/add.h"
#include "tests/gpu/device_test.h"

namespace plinth::test {
namespace {

using LayerNormTest = DeviceTest;

constexpr DType dtypes[] = {DType::f32, DType::bf16};

std::string text_of(const Shape& shape, DType dtype) {
    return shape.text() + " " + std::string(name_of(dtype));
}

// Every way to cut a row: a warp or a block, each number of vectors a thread holds, single values,
// rows too long to hold.
const Shape shapes[] = {{1, 1},     {3, 7},     {2, 5, 8}, {130, 257}, {67, 768},
                        {64, 1024}, {9, 2048},  {5, 4096}, {65, 1600}, {3, 12288},
                        {2, 16384}, {2, 20000}, {3, 9001}};

std::vector<Operand> forward_operands(const Shape& shape, DType dtype, bool has_branch,
                                      bool has_bias) {
    const Operand none{.shape = {0}};
    return {output("y", shape, dtype, usual_tolerance(dtype)),
            output("mean", {shape.rows()}, DType::f32, 1e-6),
            output("rstd", {shape.rows()}, DType::f32, 1e-5),
            has_branch ? output("sum", shape, dtype, 0.0) : none,
            input("x", shape, dtype),
            has_branch ? input("branch", shape, dtype) : none,
            input("weight", {shape[-1]}),
            has_bias ? input("bias", {shape[-1]}) : none};
}

void forward(const std::vector<View>& v, Stream& stream) {
    kernels::layer_norm_forward(v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7], 1e-5f, stream);
}

TEST_F(LayerNormTest, Forward) {
    for (const DType dtype : dtypes)
        for (const Shape& shape : shapes)
            for (const bool has_branch : {false, true})
                for (const bool has_bias : {true, false})
                    expect_same(forward_operands(shape, dtype, has_branch, has_bias), forward,
                                text_of(shape, dtype));
}

TEST_F(LayerNormTest, ForwardHasTheBitsOfTheSumAndTheNorm) {
    for (const DType dtype : dtypes)
        for (const Shape& shape : shapes) {
            const auto operands = forward_operands(shape, dtype, true, true);
            EXPECT_EQ(on_device(operands, forward),
                      on_device(operands,
                                [](const std::vector<View>& v, Stream& stream) {
                                    kernels::add(v[3], v[4], v[5], stream);
                                    kernels::layer_norm_forward(v[0], v[1], v[2], {}, v[3], {},
                                                                v[6], v[7], 1e-5f, stream);
                                }))
                << text_of(shape, dtype);
        }
}

/// Operands of a backward pass; which outputs there are, and whether a gradient of the sum.
struct Outputs {
    bool dx = true, dbias = true, dsum = false;
};

std::vector<Operand> backward_operands(const Shape& shape, DType dtype, Outputs outputs) {
    const int64_t n = shape[-1], rows = shape.rows();
    const Shape blocks{kernels::norm_blocks(rows), n};
    const Operand none{.shape = {0}};
    return {outputs.dx ? output("dx", shape, dtype, usual_tolerance(dtype)) : none,
            output("dweight", blocks, DType::f32, 1e-5),
            outputs.dbias ? output("dbias", blocks, DType::f32, 1e-5) : none,
            input("dy", shape, dtype),
            outputs.dsum ? input("dsum", shape, dtype) : none,
            input("x", shape, dtype),
            input("weight", {n}),
            input("mean", {rows}),
            input("rstd", {rows})};
}

void backward(const std::vector<View>& v, Stream& stream) {
    kernels::layer_norm_backward(v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7], v[8], stream);
}

TEST_F(LayerNormTest, Backward) {
    for (const DType dtype : dtypes)
        for (const Shape& shape : shapes)
            for (const Outputs outputs :
                 {Outputs{}, Outputs{.dx = false}, Outputs{.dbias = false}, Outputs{.dsum = true}})
                expect_same(backward_operands(shape, dtype, outputs), backward,
                            text_of(shape, dtype));
}

TEST_F(LayerNormTest, TheInputGradientMayOverwriteTheOutputGradient) {
    for (const DType dtype : dtypes)
        for (const Shape& shape : {Shape{67, 768}, Shape{5, 4096}, Shape{3, 9001}}) {
            auto operands = backward_operands(shape, dtype, {});
            operands[0] = in_out(operands[3], usual_tolerance(dtype));
            operands[3] = {.shape = {0}};
            expect_same(
                operands,
                [](const std::vector<View>& v, Stream& stream) {
                    kernels::layer_norm_backward(v[0], v[1], v[2], v[0], v[4], v[5], v[6], v[7],
                                                 v[8], stream);
                },
                "in place " + text_of(shape, dtype));
        }
}

TEST_F(LayerNormTest, BackwardHasTheBitsOfTheNormAndTheSum) {
    for (const DType dtype : dtypes)
        for (const Shape& shape : shapes) {
            const auto operands = backward_operands(shape, dtype, {.dsum = true});
            const auto expected =
                on_device(operands, [](const std::vector<View>& v, Stream& stream) {
                    kernels::layer_norm_backward(v[0], v[1], v[2], v[3], {}, v[5], v[6], v[7], v[8],
                                                 stream);
                    kernels::add(v[0], v[4], v[0], stream);
                });
            EXPECT_EQ(on_device(operands, backward), expected) << text_of(shape, dtype);
            auto in_place = operands;
            in_place[0] = in_out(operands[4], usual_tolerance(dtype));
            const auto result = on_device(in_place, [](const std::vector<View>& v, Stream& stream) {
                kernels::layer_norm_backward(v[0], v[1], v[2], v[3], v[0], v[5], v[6], v[7], v[8],
                                             stream);
            });
            EXPECT_EQ(result[0], expected[0]) << "in place " << text_of(shape, dtype);
        }
}

TEST_F(LayerNormTest, ManyRows) {
    const Shape shape{4133, 768};
    expect_same(backward_operands(shape, DType::bf16, {.dsum = true}), backward,
                text_of(shape, DType::bf16));
}

}  // namespace
}  // namespace plinth::test
