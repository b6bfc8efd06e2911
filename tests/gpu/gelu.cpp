// SPDX-License-Identifier: Apache-2.0
#include "kernels/gelu.h"

#include <limits>

#include "tests/gpu/device_test.h"
#include "tests/gpu/part_of.h"

namespace plinth::test {
namespace {

class GeluTest : public DeviceTest {
  protected:
    /// One step of the dtype: the arithmetic is the host's, operation by operation.
    static double step_of(DType dtype) { return dtype == DType::bf16 ? 8e-3 : 2.4e-7; }

    /// Forward, and backward in place of dy.
    void compare(const Operand& x, const std::string& what) {
        const double step = step_of(x.dtype);
        for (const auto form : {kernels::Gelu::tanh, kernels::Gelu::erf})
            expect_same(
                {output("y", x.shape, x.dtype, step), in_out(input("dy", x.shape, x.dtype), step),
                 x},
                [form](const auto& v, Stream& s) {
                    kernels::gelu_forward(v[0], v[2], form, s);
                    kernels::gelu_backward(v[1], v[1], v[2], form, s);
                },
                what + (form == kernels::Gelu::tanh ? ", tanh" : ", erf"));
    }
};

TEST_F(GeluTest, ValuesAndGradientsAreThoseOfTheHost) {
    for (const DType dtype : {DType::f32, DType::bf16})
        for (const int64_t n :
             {int64_t{1}, int64_t{7}, int64_t{257}, int64_t{4099}, (int64_t{1} << 19) + 5}) {
            // From the flat parts at both sides through the bend.
            std::vector<float> x(static_cast<size_t>(n));
            for (int64_t i = 0; i < n; ++i)
                x[static_cast<size_t>(i)] =
                    -12.0f + 24.0f * static_cast<float>(i + 1) / static_cast<float>(n + 1);
            compare(input_of("x", {n}, x, dtype), fmt::format("{} of {}", n, name_of(dtype)));
        }
}

TEST_F(GeluTest, OrdinaryAndExtremeNumbers) {
    constexpr float infinity = std::numeric_limits<float>::infinity();
    const std::vector<float> x{0.0f,  -0.0f,  infinity, -infinity, std::nanf(""), 1e-30f, -1e-30f,
                               3e38f, -3e38f, 1e-42f,   -13.5f,    -100.0f,       100.0f, 88.8f,
                               -9.3f, -4.0f,  4.0f,     1.0f,      -1.0f};
    for (const DType dtype : {DType::f32, DType::bf16})
        compare(input_of("x", {static_cast<int64_t>(x.size())}, x, dtype),
                std::string(name_of(dtype)));
}

TEST_F(GeluTest, TakesViewsThatBeginBetweenVectors) {
    for (const DType dtype : {DType::f32, DType::bf16})
        expect_same(
            {in_out(input("y", {1001}, dtype), step_of(dtype)), input("x", {1001}, dtype)},
            [](const auto& v, Stream& s) {
                kernels::gelu_forward(part_of(v[0], 1), part_of(v[1], 1), kernels::Gelu::tanh, s);
            },
            std::string(name_of(dtype)));
}

}  // namespace
}  // namespace plinth::test
