// SPDX-License-Identifier: Apache-2.0
#include "kernels/rotary.h"

#include "tests/gpu/device_test.h"

namespace plinth::test {
namespace {

struct RotaryCase {
    int64_t batch, tokens, heads, kv_heads, width;
    int32_t stride = 1;  ///< from one position to the next
    double factor = 1.0;
};

const RotaryCase rotary_cases[] = {
    {1, 1, 1, 1, 2},        {2, 7, 3, 1, 6},         {2, 5, 4, 2, 10},
    {1, 3, 2, 2, 64},       {2, 33, 8, 2, 128},      {1, 2, 1, 1, 300},
    {1, 9, 2, 1, 2048},     {1, 41, 12, 12, 64, 97}, {2, 17, 4, 4, 32, 9001, 8.0},
    {4, 128, 16, 4, 128, 3}};

class RotaryDeviceTest : public DeviceTest {
  protected:
    /// Angles are rounded from double on both devices: at most one step of fp32 apart.
    void compare(const RotaryCase& c, DType dtype, bool backward) {
        const double step = dtype == DType::bf16 ? 8e-3 : 4e-7;
        const kernels::Rotary options{.heads = c.heads, .kv_heads = c.kv_heads, .factor = c.factor};
        const auto what = fmt::format("{} x {} tokens, {} + {} heads of {} in {}", c.batch,
                                      c.tokens, c.heads, c.kv_heads, c.width, name_of(dtype));
        const Shape shape{c.batch, c.tokens, (c.heads + 2 * c.kv_heads) * c.width};
        std::vector<int32_t> numbers;
        for (int64_t i = 0; i < c.batch * c.tokens; ++i)
            numbers.push_back(static_cast<int32_t>(i % c.tokens) * c.stride);
        const Operand qkv = input("qkv", shape, dtype);
        const Operand positions = input_of("positions", {c.batch, c.tokens}, numbers);
        expect_same(
            {output("y", shape, dtype, step), qkv, positions},
            [=](const auto& v, Stream& s) {
                kernels::rotary(v[0], v[1], v[2], options, backward, s);
            },
            what);
        expect_same(
            {in_out(qkv, step), positions},
            [=](const auto& v, Stream& s) {
                kernels::rotary(v[0], v[0], v[1], options, backward, s);
            },
            what + " in place");
    }
};

TEST_F(RotaryDeviceTest, TurnsAsTheHostDoes) {
    for (const DType dtype : {DType::f32, DType::bf16})
        for (const RotaryCase& c : rotary_cases)
            for (const bool backward : {false, true})
                compare(c, dtype, backward);
}

}  // namespace
}  // namespace plinth::test
