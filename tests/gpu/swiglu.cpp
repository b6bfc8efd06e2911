// SPDX-License-Identifier: Apache-2.0
#include "kernels/swiglu.h"

#include "tests/gpu/device_test.h"

namespace plinth::test {
namespace {

class SwigluDeviceTest : public DeviceTest {
  protected:
    void compare(const Shape& narrow, const Operand& x) {
        const double step = x.dtype == DType::bf16 ? 8e-3 : 2.4e-7;
        expect_same(
            {output("y", narrow, x.dtype, step), output("dx", x.shape, x.dtype, step),
             input("dy", narrow, x.dtype), x},
            [](const auto& v, Stream& s) {
                kernels::swiglu_forward(v[0], v[3], s);
                kernels::swiglu_backward(v[1], v[2], v[3], s);
            },
            fmt::format("{} of {}", narrow.text(), name_of(x.dtype)));
    }
};

TEST_F(SwigluDeviceTest, ValuesAndGradientsAreThoseOfTheHost) {
    for (const DType dtype : {DType::f32, DType::bf16})
        for (const Shape& narrow :
             {Shape{1, 1}, Shape{3, 7}, Shape{2, 5, 8}, Shape{13, 12}, Shape{257, 64},
              Shape{3, 2048}, Shape{5, 11008}, Shape{1, 4099}, Shape{1025, 96}}) {
            const Shape packed{narrow.rows(), 2 * narrow[-1]};
            compare(narrow, input("x", packed, dtype));
        }
}

TEST_F(SwigluDeviceTest, LargeGatesSaturate) {
    const std::vector<float> x{-200.0f, -100.0f, -89.0f, -87.0f, -20.0f, -1.0f, 0.0f,   -0.0f,
                               1.0f,    20.0f,   87.0f,  89.0f,  200.0f, 1e30f, -1e30f, 3.0f};
    std::vector<float> packed = x;
    packed.insert(packed.end(), x.begin(), x.end());
    for (const DType dtype : {DType::f32, DType::bf16})
        compare({1, 16}, input_of("x", {1, 32}, packed, dtype));
}

}  // namespace
}  // namespace plinth::test
