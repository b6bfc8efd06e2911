// SPDX-License-Identifier: Apache-2.0
#include "kernels/fp8.h"

#include <cmath>
#include <fstream>
#include <limits>

#include "tests/support/expect_error.h"
#include "tests/support/fp8_oracle.h"
#include "tests/support/op_fixture.h"
#include "tests/support/same_bits.h"

namespace plinth::test {
namespace {

using core::Tensor;
using kernels::Fp8;
using kernels::fp8_bits;
using kernels::fp8_value;

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
                    EXPECT_EQ(fp8_bits(value, format),
                              nearest_code(static_cast<double>(value), format))
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
        kernels::fp8_scale(scale.out(), tensor(x, {static_cast<int64_t>(x.size())}).in(), {},
                           format, stream_);
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

TEST_F(Fp8Test, AKnownScaleIsTakenWhereThereIsOne) {
    const Tensor x = tensor({1.0f, -896.0f, 3.0f}, {3}),
                 bad = tensor({1.0f, std::nanf(""), 3.0f}, {3});
    const auto scale_of = [&](const Tensor& values, float known) {
        Tensor scale = scalar(-1.0f);
        kernels::fp8_scale(scale.out(), values.in(), scalar(known).in(), Fp8::e4m3, stream_);
        return scale.values<float>()[0];
    };
    EXPECT_EQ(scale_of(x, 0.25f), 0.25f);
    EXPECT_EQ(scale_of(x, 0x1p-126f), 0x1p-126f);
    EXPECT_EQ(scale_of(x, 0.0f), 2.0f);
    EXPECT_EQ(scale_of(bad, 0.25f), 0.25f) << "a scale of the past hides it";
    EXPECT_TRUE(std::isnan(scale_of(bad, 0.0f)));
}

TEST_F(Fp8Test, QuantizingGivesBothLayouts) {
    const int64_t rows = 48, columns = 80;
    for (const DType dtype : {DType::f32, DType::bf16}) {
        const auto x = rounded_to_bf16(random_values(rows * columns, "x"));
        const Tensor scale = scalar(0.004f);
        Tensor y = bytes({rows, columns}), transposed = bytes({columns, rows});
        kernels::fp8_quantize(y.out(), transposed.out(), {}, tensor(x, {rows, columns}, dtype).in(),
                              scale.in(), Fp8::e4m3, stream_);
        Tensor alone = bytes({columns, rows});
        kernels::fp8_quantize({}, alone.out(), {}, tensor(x, {rows, columns}, dtype).in(),
                              scale.in(), Fp8::e4m3, stream_);
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
            kernels::fp8_quantize(a.out(), {}, {}, tensor(random_values(m * k, "a"), {m, k}).in(),
                                  scale_a.in(), left, stream_);
            kernels::fp8_quantize(b.out(), {}, {}, tensor(random_values(n * k, "b"), {n, k}).in(),
                                  scale_b.in(), right, stream_);
            const auto before = random_values(m * n, "c");
            Tensor c = tensor(before, {m, n});
            kernels::fp8_matmul(c.out(), a.in(), b.in(), {}, scale_a.in(), scale_b.in(),
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

TEST_F(Fp8Test, ABiasIsAddedOnceBeforeTheRounding) {
    const int64_t m = 5, n = 32, k = 48;
    Tensor a = bytes({m, k}), b = bytes({n, k});
    const Tensor scale_a = scalar(0.25f), scale_b = scalar(3.0f);
    kernels::fp8_quantize(a.out(), {}, {}, tensor(random_values(m * k, "a"), {m, k}).in(),
                          scale_a.in(), Fp8::e4m3, stream_);
    kernels::fp8_quantize(b.out(), {}, {}, tensor(random_values(n * k, "b"), {n, k}).in(),
                          scale_b.in(), Fp8::e4m3, stream_);
    const auto bias = random_values(n, "bias");
    const auto product = [&](DType dtype, const Tensor& added) {
        Tensor c = Tensor::empty({m, n}, dtype, *allocator_);
        kernels::fp8_matmul(c.out(), a.in(), b.in(), added.in(), scale_a.in(), scale_b.in(), {},
                            stream_);
        return to_doubles(c);
    };
    const auto without = product(DType::f32, {});
    const auto with = product(DType::bf16, tensor(bias, {n}));
    for (size_t i = 0; i < without.size(); ++i) {
        const float sum = static_cast<float>(without[i]) + bias[i % static_cast<size_t>(n)];
        EXPECT_EQ(with[i], static_cast<double>(static_cast<float>(BFloat16(sum)))) << i;
    }
}

TEST_F(Fp8Test, TheLargestMagnitudeIsRaisedAndNeverLowered) {
    auto x = random_values(48 * 80, "x");
    x[3000] = -5.0f;
    const auto raised = [&](float before, const std::vector<float>& values) {
        Tensor largest = scalar(before), y = bytes({48, 80});
        kernels::fp8_quantize(y.out(), {}, largest.out(), tensor(values, {48, 80}).in(),
                              scalar(1.0f).in(), Fp8::e4m3, stream_);
        return largest.values<float>()[0];
    };
    EXPECT_EQ(raised(0.0f, x), 5.0f);
    EXPECT_EQ(raised(4.0f, x), 5.0f);
    EXPECT_EQ(raised(7.0f, x), 7.0f);
    x[17] = -std::numeric_limits<float>::infinity();
    EXPECT_TRUE(std::isinf(raised(1.0f, x)));
    x[99] = std::nanf("");
    EXPECT_TRUE(std::isnan(raised(1.0f, x)));
    EXPECT_TRUE(std::isnan(raised(std::nanf(""), random_values(48 * 80, "y"))));
}

TEST_F(Fp8Test, ThreadsDoNotChangeBits) {
    const int64_t m = 112, n = 208, k = 320;
    const auto x = tensor(random_values(m * k, "x"), {m, k}),
               w = tensor(random_values(n * k, "w"), {n, k});
    expect_threads_do_not_change_bits([&](Stream& stream) {
        Tensor a = bytes({m, k}), b = bytes({n, k}), transposed = bytes({k, m});
        Tensor scale_a = scalar(0.0f), scale_b = scalar(0.0f), largest = scalar(0.0f);
        kernels::fp8_scale(scale_a.out(), x.in(), {}, Fp8::e5m2, stream);
        kernels::fp8_scale(scale_b.out(), w.in(), {}, Fp8::e4m3, stream);
        kernels::fp8_quantize(a.out(), transposed.out(), largest.out(), x.in(), scale_a.in(),
                              Fp8::e5m2, stream);
        kernels::fp8_quantize(b.out(), {}, {}, w.in(), scale_b.in(), Fp8::e4m3, stream);
        Tensor c = Tensor::empty({m, n}, DType::f32, *allocator_);
        kernels::fp8_matmul(c.out(), a.in(), b.in(), {}, scale_a.in(), scale_b.in(),
                            {.a = Fp8::e5m2}, stream);
        auto all = c.values<float>();
        for (const Tensor& one : {scale_a, scale_b, largest})
            all.push_back(one.values<float>()[0]);
        for (const uint8_t bits : transposed.values<uint8_t>())
            all.push_back(bits);
        return all;
    });
}

// tests/golden/fp8/make_golden.py wrote the files, by PyTorch.
TEST_F(Fp8Test, CodesAndRoundingsAreThoseOfPyTorch) {
    for (const Fp8 format : {Fp8::e4m3, Fp8::e5m2}) {
        const std::string path = std::string(PLINTH_SOURCE_DIR) + "/tests/golden/fp8/" +
                                 (format == Fp8::e4m3 ? "e4m3.txt" : "e5m2.txt");
        std::ifstream file(path);
        ASSERT_TRUE(file) << path;
        std::string kind;
        int values = 0, roundings = 0;
        for (uint32_t code = 0, bits = 0; file >> kind >> std::hex >> code >> bits;) {
            const float value = std::bit_cast<float>(bits);
            if (kind == "value") {
                ++values;
                const float ours = fp8_value(static_cast<uint8_t>(code), format);
                const bool is_same =
                    std::isnan(value) ? std::isnan(ours) : std::bit_cast<uint32_t>(ours) == bits;
                EXPECT_TRUE(is_same) << code;
            } else {
                ASSERT_EQ(kind, "rounds");
                ++roundings;
                EXPECT_EQ(fp8_bits(value, format), code) << value;
            }
        }
        EXPECT_EQ(values, 256) << path;
        EXPECT_GT(roundings, 2000) << path;
    }
}

TEST_F(Fp8Test, WhatTheMatrixUnitsCannotDoIsRefused) {
    Tensor a = bytes({4, 16}), b = bytes({16, 16}), odd = bytes({16, 24}), wide = bytes({4, 24});
    Tensor c = tensor(random_values(64, "c"), {4, 16});
    const Tensor one = scalar(1.0f);
    const auto product = [&](const Tensor& left, const Tensor& right, kernels::Fp8Matmul options) {
        kernels::fp8_matmul(c.out(), left.in(), right.in(), {}, one.in(), one.in(), options,
                            stream_);
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
            kernels::fp8_quantize(y.out(), {}, {}, tensor(random_values(96, "x"), {4, 24}).in(),
                                  one.in(), Fp8::e4m3, stream_);
        },
        "multiple of 16");
}

}  // namespace
}  // namespace plinth::test
