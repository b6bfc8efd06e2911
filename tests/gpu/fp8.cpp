// SPDX-License-Identifier: Apache-2.0
// M rows, N columns, K inner extent, R rows and C columns of a matrix.
#include "kernels/fp8.h"

#include <bit>
#include <cmath>
#include <limits>

#include "tests/gpu/device_test.h"

namespace plinth::test {
namespace {

using kernels::Fp8;

class Fp8Test : public DeviceTest {
  protected:
    void SetUp() override {
        DeviceTest::SetUp();
        if (!IsSkipped() && cuda_module().info(0).capability < 89)
            GTEST_SKIP() << "this device has no 8-bit matrix units";
    }

    /// 8-bit matrices travel as words of four.
    static Operand byte_output(const std::string& name, int64_t rows, int64_t columns) {
        return output(name, {rows, columns / 4}, DType::i32, 0.0);
    }
    static View as_bytes(const View& words) {
        return {words.data, DType::u8, Shape{words.dim(0), words.dim(1) * 4}, words.device};
    }
};

TEST_F(Fp8Test, ScalesAreTheSame) {
    for (const int64_t n : {1, 7, 8, 4099, 1 << 20})
        for (const DType dtype : {DType::f32, DType::bf16})
            for (const Fp8 format : {Fp8::e4m3, Fp8::e5m2})
                expect_same(
                    {output("scale", {1}, DType::f32, 0.0), input("x", {n}, dtype)},
                    [&](const std::vector<View>& v, Stream& stream) {
                        kernels::fp8_scale(v[0], v[1], {}, format, stream);
                    },
                    fmt::format("{} {}", n, name_of(dtype)));
    const float bad[] = {0.0f, 1e-44f, std::numeric_limits<float>::infinity(), std::nanf("")};
    for (const float value : bad) {
        std::vector<float> x(1000, 0.0f);
        x[613] = value;
        expect_same(
            {output("scale", {1}, DType::f32, 0.0), input_of("x", {1000}, x)},
            [&](const std::vector<View>& v, Stream& stream) {
                kernels::fp8_scale(v[0], v[1], {}, Fp8::e4m3, stream);
            },
            fmt::format("with {}", value));
    }
}

TEST_F(Fp8Test, KnownScalesAreTaken) {
    for (const int64_t n : {1, 7, 4099, 1 << 18})
        for (const float known : {0.0f, 0x1p-126f, 0.37f}) {
            const std::vector<Operand> all = {output("scale", {1}, DType::f32, 0.0),
                                              input("x", {n}, DType::bf16),
                                              input_of("known", {1}, std::vector<float>{known})};
            const auto call = [](const std::vector<View>& v, Stream& stream) {
                kernels::fp8_scale(v[0], v[1], v[2], Fp8::e5m2, stream);
            };
            expect_same(all, call, fmt::format("{} with {}", n, known));
            if (known > 0.0f) {
                EXPECT_EQ(on_device(all, call)[0][0], static_cast<double>(known)) << n;
            }
        }
}

TEST_F(Fp8Test, EveryRoundingIsTheSame) {
    // Every sign, exponent and upper mantissa, with a lower mantissa of none, a little, half, and
    // almost a step; NaN too.
    std::vector<float> values;
    for (uint32_t upper = 0; upper < 0x10000u; upper += 4)
        for (const uint32_t lower : {0x0u, 0x1u, 0x20000u, 0x3ffffu})
            values.push_back(std::bit_cast<float>((upper << 16) | lower));
    const int64_t columns = 256, rows = static_cast<int64_t>(values.size()) / columns;
    for (const Fp8 format : {Fp8::e4m3, Fp8::e5m2})
        expect_same(
            {byte_output("y", rows, columns), input_of("x", {rows, columns}, values),
             input_of("scale", {1}, std::vector<float>{1.0f})},
            [&](const std::vector<View>& v, Stream& stream) {
                kernels::fp8_quantize(as_bytes(v[0]), {}, {}, v[1], v[2], format, stream);
            },
            format == Fp8::e4m3 ? "e4m3" : "e5m2");
}

TEST_F(Fp8Test, QuantizedInBothLayouts) {
    for (const auto& [rows, columns] : {std::pair<int64_t, int64_t>{16, 16},
                                        {16, 144},
                                        {144, 16},
                                        {128, 128},
                                        {272, 400},
                                        {1040, 768}})
        for (const DType dtype : {DType::f32, DType::bf16})
            for (const int outputs : {1, 2, 3})
                expect_same(
                    {byte_output("y", rows, columns), byte_output("transposed", columns, rows),
                     input("x", {rows, columns}, dtype),
                     input_of("scale", {1}, std::vector<float>{0.0031f}),
                     in_out(input_of("largest", {1}, std::vector<float>{0.5f}), 0.0)},
                    [&](const std::vector<View>& v, Stream& stream) {
                        kernels::fp8_quantize(outputs & 1 ? as_bytes(v[0]) : View(),
                                              outputs & 2 ? as_bytes(v[1]) : View(),
                                              outputs == 1 ? View() : v[4], v[2], v[3], Fp8::e4m3,
                                              stream);
                    },
                    fmt::format("{}x{} {} outputs {}", rows, columns, name_of(dtype), outputs));
    // What was known already stays, and what is not finite is seen.
    const float specials[] = {0.25f, -9.0f, std::numeric_limits<float>::infinity(), std::nanf("")};
    for (const float value : specials) {
        std::vector<float> x(272 * 400, 0.125f);
        x[51234] = value;
        expect_same(
            {byte_output("y", 272, 400), input_of("x", {272, 400}, x),
             input_of("scale", {1}, std::vector<float>{0.0031f}),
             in_out(input_of("largest", {1}, std::vector<float>{0.5f}), 0.0)},
            [&](const std::vector<View>& v, Stream& stream) {
                kernels::fp8_quantize(as_bytes(v[0]), {}, v[3], v[1], v[2], Fp8::e5m2, stream);
            },
            fmt::format("with {}", value));
    }
    // Without the transposed copy any number of rows goes.
    expect_same(
        {byte_output("y", 131, 48), input("x", {131, 48}, DType::bf16),
         input_of("scale", {1}, std::vector<float>{0.0031f})},
        [&](const std::vector<View>& v, Stream& stream) {
            kernels::fp8_quantize(as_bytes(v[0]), {}, {}, v[1], v[2], Fp8::e5m2, stream);
        },
        "131 rows");
}

TEST_F(Fp8Test, Products) {
    struct Case {
        int64_t m, n, k;
        Fp8 a, b;
    };
    for (const Case& e : {Case{16, 16, 16, Fp8::e4m3, Fp8::e4m3},
                          {5, 32, 48, Fp8::e4m3, Fp8::e4m3},
                          {256, 768, 768, Fp8::e4m3, Fp8::e4m3},
                          {64, 768, 3072, Fp8::e5m2, Fp8::e4m3},
                          {768, 256, 512, Fp8::e4m3, Fp8::e5m2}})
        for (const DType result : {DType::f32, DType::bf16})
            for (const bool accumulate : {false, true}) {
                // The matrix units keep fewer bits of 8-bit sums than fp32 has.
                const double allowed =
                    3e-6 * static_cast<double>(e.k) + usual_tolerance(result) + 2e-3;
                const Operand c = input("c", {e.m, e.n}, result);
                std::vector<Operand> all = {
                    accumulate ? in_out(c, allowed) : output("c", c.shape, result, allowed),
                    byte_output("a", e.m, e.k),
                    byte_output("b", e.n, e.k),
                    input("x", {e.m, e.k}, DType::bf16),
                    input("y", {e.n, e.k}, DType::bf16),
                    output("scales", {2}, DType::f32, 0.0),
                    input("bias", {e.n})};
                expect_same(
                    all,
                    [&](const std::vector<View>& v, Stream& stream) {
                        const View a = as_bytes(v[1]), b = as_bytes(v[2]);
                        auto* scales = static_cast<float*>(v[5].data);
                        const View scale_a(scales, DType::f32, {1}, v[5].device),
                            scale_b(scales + 1, DType::f32, {1}, v[5].device);
                        kernels::fp8_scale(scale_a, v[3], {}, e.a, stream);
                        kernels::fp8_scale(scale_b, v[4], {}, e.b, stream);
                        kernels::fp8_quantize(a, {}, {}, v[3], scale_a, e.a, stream);
                        kernels::fp8_quantize(b, {}, {}, v[4], scale_b, e.b, stream);
                        kernels::fp8_matmul(v[0], a, b, accumulate ? View() : v[6], scale_a,
                                            scale_b, {.a = e.a, .b = e.b, .accumulate = accumulate},
                                            stream);
                    },
                    fmt::format("{}x{}x{} -> {} accumulate {}", e.m, e.n, e.k, name_of(result),
                                accumulate));
            }
}

}  // namespace
}  // namespace plinth::test
