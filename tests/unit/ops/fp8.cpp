// SPDX-License-Identifier: Apache-2.0
#include "kernels/fp8.h"

#include <cmath>
#include <cstdlib>
#include <limits>

#include "tests/support/expect_error.h"
#include "tests/support/op_fixture.h"

namespace plinth::test {
namespace {

using core::Tensor;
using kernels::Fp8;
using kernels::fp8_bits;
using kernels::fp8_value;

/// The value by the definition of the formats: (-1)^s 2^(e - bias) (1 + m / 2^mantissa).
double defined_value(int bits, Fp8 format) {
    const int mantissa = format == Fp8::e4m3 ? 3 : 2, bias = format == Fp8::e4m3 ? 7 : 15;
    const int exponent = (bits & 0x7f) >> mantissa, fraction = bits & ((1 << mantissa) - 1);
    const double sign = bits & 0x80 ? -1.0 : 1.0;
    if (format == Fp8::e4m3 && (bits & 0x7f) == 0x7f) return std::nan("");
    if (format == Fp8::e5m2 && exponent == 31)
        return fraction ? std::nan("") : sign * std::numeric_limits<double>::infinity();
    const double steps = exponent == 0 ? fraction : fraction + (1 << mantissa);
    return sign * std::ldexp(steps, std::max(exponent, 1) - bias - mantissa);
}

bool is_finite_code(int bits, Fp8 format) {
    return std::isfinite(defined_value(bits, format));
}

/// The nearest finite number; of two as near, the one with the even code.
int nearest(double x, Fp8 format) {
    int best = -1;
    double least = 0.0;
    const int sign = std::signbit(x) ? 0x80 : 0;
    for (int code = 0; code < 128; ++code) {
        if (!is_finite_code(code, format)) continue;
        const double distance = std::abs(defined_value(code, format) - std::abs(x));
        if (best < 0 || distance < least || (distance == least && code % 2 == 0)) {
            best = code;
            least = distance;
        }
    }
    return sign | best;
}

class Fp8Test : public OpTest {
  protected:
    Tensor bytes(const Shape& shape) { return Tensor::empty(shape, DType::u8, *allocator_); }
    Tensor scalar(float value) { return tensor({value}, {1}); }
};

TEST_F(Fp8Test, EveryCodeHasItsValueAndComesBack) {
    for (const Fp8 format : {Fp8::e4m3, Fp8::e5m2})
        for (int code = 0; code < 256; ++code) {
            const auto bits = static_cast<uint8_t>(code);
            const double expected = defined_value(code, format);
            const auto value = static_cast<double>(fp8_value(bits, format));
            if (std::isnan(expected)) {
                EXPECT_TRUE(std::isnan(value)) << code;
                EXPECT_TRUE(
                    std::isnan(fp8_value(fp8_bits(fp8_value(bits, format), format), format)));
                continue;
            }
            EXPECT_EQ(value, expected) << code;
            EXPECT_EQ(std::signbit(value), std::signbit(expected)) << code;
            if (std::isinf(expected)) continue;
            EXPECT_EQ(fp8_bits(fp8_value(bits, format), format), code);
        }
}

TEST_F(Fp8Test, RoundsToTheNearestAndTiesToEven) {
    for (const Fp8 format : {Fp8::e4m3, Fp8::e5m2})
        for (int code = 0; code + 1 < 128 && is_finite_code(code + 1, format); ++code) {
            const auto low = static_cast<float>(defined_value(code, format));
            const auto high = static_cast<float>(defined_value(code + 1, format));
            const float middle = low + (high - low) / 2;
            for (const float x : {middle, std::nextafter(middle, 0.0f),
                                  std::nextafter(middle, 1e9f), low + (high - low) / 4})
                for (const float value : {x, -x})
                    EXPECT_EQ(fp8_bits(value, format), nearest(static_cast<double>(value), format))
                        << value;
        }
}

TEST_F(Fp8Test, WhatIsTooLargeBecomesTheLargest) {
    for (const Fp8 format : {Fp8::e4m3, Fp8::e5m2})
        for (const float x : {largest_of(format), largest_of(format) * 1.01f, 1e38f,
                              std::numeric_limits<float>::infinity()}) {
            EXPECT_EQ(fp8_value(fp8_bits(x, format), format), largest_of(format));
            EXPECT_EQ(fp8_value(fp8_bits(-x, format), format), -largest_of(format));
        }
    EXPECT_EQ(fp8_bits(1e-30f, Fp8::e4m3), 0);
    EXPECT_EQ(fp8_bits(-1e-30f, Fp8::e5m2), 0x80);
}

TEST_F(Fp8Test, TheScaleTakesTheLargestToTheLargest) {
    const auto scale_of = [&](const std::vector<float>& x, Fp8 format) {
        Tensor scale = scalar(-1.0f);
        kernels::fp8_scale(scale.out(), tensor(x, {static_cast<int64_t>(x.size())}).in(), format,
                           stream_);
        return scale.values<float>()[0];
    };
    EXPECT_EQ(scale_of({1.0f, -896.0f, 3.0f}, Fp8::e4m3), 2.0f);
    EXPECT_EQ(scale_of({1.0f, 28672.0f}, Fp8::e5m2), 0.5f);
    EXPECT_EQ(scale_of({0.0f, -0.0f}, Fp8::e4m3), 1.0f);
    EXPECT_EQ(scale_of({1e-44f}, Fp8::e4m3), 0x1p-126f);
    for (const float bad : {std::numeric_limits<float>::infinity(), std::nanf("")})
        EXPECT_TRUE(std::isnan(scale_of({1.0f, bad}, Fp8::e4m3)));
    std::vector<float> many = random_values(100003, "x");
    many[77777] = -7168.0f;
    EXPECT_EQ(scale_of(many, Fp8::e4m3), 16.0f);
}

TEST_F(Fp8Test, QuantizingGivesBothLayouts) {
    const int64_t rows = 48, columns = 80;
    for (const DType dtype : {DType::f32, DType::bf16}) {
        const auto x = rounded_to_bf16(random_values(rows * columns, "x"));
        const Tensor scale = scalar(0.004f);
        Tensor y = bytes({rows, columns}), transposed = bytes({columns, rows});
        kernels::fp8_quantize(y.out(), transposed.out(), tensor(x, {rows, columns}, dtype).in(),
                              scale.in(), Fp8::e4m3, stream_);
        Tensor alone = bytes({columns, rows});
        kernels::fp8_quantize({}, alone.out(), tensor(x, {rows, columns}, dtype).in(), scale.in(),
                              Fp8::e4m3, stream_);
        EXPECT_EQ(alone.values<uint8_t>(), transposed.values<uint8_t>());
        for (int64_t r = 0; r < rows; ++r)
            for (int64_t c = 0; c < columns; ++c) {
                const auto at = static_cast<size_t>(r * columns + c);
                const uint8_t expected = fp8_bits(x[at] * (1.0f / 0.004f), Fp8::e4m3);
                ASSERT_EQ(y.values<uint8_t>()[at], expected);
                ASSERT_EQ(transposed.values<uint8_t>()[static_cast<size_t>(c * rows + r)],
                          expected);
            }
    }
}

TEST_F(Fp8Test, ProductsAreThoseOfTheDecodedOperands) {
    const int64_t m = 5, n = 32, k = 48;
    for (const auto& [left, right] :
         {std::pair{Fp8::e4m3, Fp8::e4m3}, {Fp8::e5m2, Fp8::e4m3}, {Fp8::e4m3, Fp8::e5m2}})
        for (const bool accumulate : {false, true}) {
            Tensor a = bytes({m, k}), b = bytes({n, k});
            const Tensor scale_a = scalar(0.25f), scale_b = scalar(3.0f);
            kernels::fp8_quantize(a.out(), {}, tensor(random_values(m * k, "a"), {m, k}).in(),
                                  scale_a.in(), left, stream_);
            kernels::fp8_quantize(b.out(), {}, tensor(random_values(n * k, "b"), {n, k}).in(),
                                  scale_b.in(), right, stream_);
            const auto before = random_values(m * n, "c");
            Tensor c = tensor(before, {m, n});
            kernels::fp8_matmul(c.out(), a.in(), b.in(), scale_a.in(), scale_b.in(),
                                {.a = left, .b = right, .accumulate = accumulate}, stream_);
            const auto a_bits = a.values<uint8_t>(), b_bits = b.values<uint8_t>();
            const auto y = c.values<float>();
            for (int64_t r = 0; r < m; ++r)
                for (int64_t j = 0; j < n; ++j) {
                    const auto at = static_cast<size_t>(r * n + j);
                    double sum = 0.0;
                    for (int64_t i = 0; i < k; ++i)
                        sum += defined_value(a_bits[static_cast<size_t>(r * k + i)], left) *
                               defined_value(b_bits[static_cast<size_t>(j * k + i)], right);
                    sum = 0.75 * sum + (accumulate ? static_cast<double>(before[at]) : 0.0);
                    EXPECT_NEAR(static_cast<double>(y[at]), sum, 1e-5 * (1.0 + std::abs(sum)));
                }
        }
}

TEST_F(Fp8Test, WhatTheMatrixUnitsCannotDoIsRefused) {
    Tensor a = bytes({4, 16}), b = bytes({16, 16}), odd = bytes({16, 24}), wide = bytes({4, 24});
    Tensor c = tensor(random_values(64, "c"), {4, 16});
    const Tensor one = scalar(1.0f);
    const auto product = [&](const Tensor& left, const Tensor& right, kernels::Fp8Matmul options) {
        kernels::fp8_matmul(c.out(), left.in(), right.in(), one.in(), one.in(), options, stream_);
    };
    EXPECT_NO_THROW(product(a, b, {}));
    expect_error(
        ErrorKind::internal, [&] { product(a, odd, {}); }, "does not fit");
    expect_error(
        ErrorKind::internal, [&] { product(wide, odd, {}); }, "multiples of 16");
    expect_error(
        ErrorKind::internal, [&] { product(a, b, {.a = Fp8::e5m2, .b = Fp8::e5m2}); },
        "e5m2 times e5m2");
    Tensor y = bytes({4, 24});
    expect_error(
        ErrorKind::internal,
        [&] {
            kernels::fp8_quantize(y.out(), {}, tensor(random_values(96, "x"), {4, 24}).in(),
                                  one.in(), Fp8::e4m3, stream_);
        },
        "multiple of 16");
}

}  // namespace
}  // namespace plinth::test
