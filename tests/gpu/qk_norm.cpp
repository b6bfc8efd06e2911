// SPDX-License-Identifier: Apache-2.0
#include "kernels/qk_norm.h"

#include "tests/gpu/device_test.h"

namespace plinth::test {
namespace {

struct QkNormCase {
    int64_t batch, tokens, heads, kv_heads, width;

    Shape packed() const { return {batch, tokens, (heads + 2 * kv_heads) * width}; }
    Shape rstd() const { return {batch, tokens, heads + kv_heads}; }
    kernels::QkNorm options() const { return {.heads = heads, .kv_heads = kv_heads}; }
    std::string text(DType dtype) const {
        return fmt::format("{} x {} tokens, {} + {} heads of {} in {}", batch, tokens, heads,
                           kv_heads, width, name_of(dtype));
    }
};

const QkNormCase qk_norm_cases[] = {{1, 1, 1, 1, 1},    {2, 7, 3, 1, 5},   {1, 3, 2, 2, 64},
                                    {2, 33, 8, 2, 128}, {1, 5, 2, 1, 96},  {1, 4, 2, 1, 1024},
                                    {1, 3, 1, 1, 257},  {1, 17, 4, 2, 80}, {4, 100, 16, 8, 64}};

class QkNormDeviceTest : public DeviceTest {
  protected:
    /// Positive, as 1 / sqrt of something is.
    static Operand scales(const Shape& shape) {
        std::vector<float> values(static_cast<size_t>(shape.elements()));
        for (size_t i = 0; i < values.size(); ++i)
            values[i] = 0.5f + 0.01f * static_cast<float>(i % 101);
        return input_of("rstd", shape, values);
    }
    void compare_forward(const QkNormCase& c, DType dtype) {
        const Operand qkv = input("qkv", c.packed(), dtype);
        const Operand rstd = output("rstd", c.rstd(), DType::f32, 1.2e-5);
        const Operand q = input("q_weight", {c.width}), k = input("k_weight", {c.width});
        const double tolerance = usual_tolerance(dtype);
        expect_same(
            {output("y", c.packed(), dtype, tolerance), rstd, qkv, q, k},
            [=](const auto& v, Stream& s) {
                kernels::qk_norm_forward(v[0], v[1], v[2], v[3], v[4], c.options(), s);
            },
            c.text(dtype));
        expect_same(
            {in_out(qkv, tolerance), rstd, q, k},
            [=](const auto& v, Stream& s) {
                kernels::qk_norm_forward(v[0], v[1], v[0], v[2], v[3], c.options(), s);
            },
            c.text(dtype) + " in place");
    }
    void compare_gradients(const QkNormCase& c, DType dtype) {
        const Operand dy = input("dy", c.packed(), dtype), qkv = input("qkv", c.packed(), dtype);
        const Operand q = input("q_weight", {c.width}), k = input("k_weight", {c.width});
        const double tolerance = usual_tolerance(dtype);
        expect_same(
            {output("dqkv", c.packed(), dtype, tolerance), dy, qkv, scales(c.rstd()), q, k},
            [=](const auto& v, Stream& s) {
                kernels::qk_norm_input_grad(v[0], v[1], v[2], v[3], v[4], v[5], c.options(), s);
            },
            c.text(dtype));
        expect_same(
            {in_out(dy, tolerance), qkv, scales(c.rstd()), q, k},
            [=](const auto& v, Stream& s) {
                kernels::qk_norm_input_grad(v[0], v[0], v[1], v[2], v[3], v[4], c.options(), s);
            },
            c.text(dtype) + " in place");
        // Sums of up to batch * tokens * heads terms of both signs, in another order.
        const Operand dweight = output("dweight", {c.width}, DType::f32, 3e-5);
        for (const bool of_keys : {false, true})
            expect_same(
                {dweight, dy, qkv, scales(c.rstd())},
                [=](const auto& v, Stream& s) {
                    kernels::qk_norm_weight_grad(v[0], v[1], v[2], v[3], of_keys, c.options(), s);
                },
                c.text(dtype) + (of_keys ? ", keys" : ", queries"));
    }
};

TEST_F(QkNormDeviceTest, ForwardIsTheHosts) {
    for (const DType dtype : {DType::f32, DType::bf16})
        for (const QkNormCase& c : qk_norm_cases)
            compare_forward(c, dtype);
}

TEST_F(QkNormDeviceTest, GradientsAreTheHosts) {
    for (const DType dtype : {DType::f32, DType::bf16})
        for (const QkNormCase& c : qk_norm_cases)
            compare_gradients(c, dtype);
}

}  // namespace
}  // namespace plinth::test
