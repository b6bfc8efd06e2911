// SPDX-License-Identifier: Apache-2.0
#include "kernels/cross_entropy.h"

#include "tests/gpu/device_test.h"
#include "tests/support/expect_error.h"

namespace plinth::test {
namespace {

using CrossEntropyTest = DeviceTest;
using kernels::CrossEntropy;

constexpr DType dtypes[] = {DType::f32, DType::bf16};

std::vector<int32_t> targets_of(int64_t rows, int64_t vocabulary) {
    std::vector<int32_t> targets;
    for (int64_t r = 0; r < rows; ++r)
        targets.push_back(r % 5 == 3 ? -100 : static_cast<int32_t>((r * 7919 + 11) % vocabulary));
    return targets;
}

/// Logits of up to 20 either way.
Operand logits_of(const Shape& shape, DType dtype) {
    std::vector<float> values(static_cast<size_t>(shape.elements()));
    uint32_t state = 1;
    for (float& value : values) {
        state = state * 1664525u + 1013904223u;
        value = static_cast<float>(static_cast<int32_t>(state)) * (20.0f * 0x1p-31f);
    }
    return input_of("logits", shape, values, dtype);
}

Operand column(const std::string& name, int64_t rows, double tolerance) {
    return output(name, {rows}, DType::f32, tolerance);
}

/// Rows, columns held here, and where they lie in the vocabulary.
struct Case {
    int64_t rows, columns;
    CrossEntropy options;
};

const Case cases[] = {{1, 1, {.valid_columns = 1}},
                      {7, 13, {.valid_columns = 13}},
                      {6, 100, {.valid_columns = 97}},
                      {65, 1031, {.valid_columns = 1031}},
                      {33, 50257, {.valid_columns = 50257}},
                      {17, 50304, {.valid_columns = 50257, .z_loss = 1e-4}},
                      {5, 1000, {.first_column = 1000, .valid_columns = 1700}},
                      {5, 1000, {.first_column = 2000, .valid_columns = 1700}},
                      {3, 151936, {.valid_columns = 151936}}};

std::string text_of(const Case& it, DType dtype) {
    return Shape{it.rows, it.columns}.text() + " " + std::string(name_of(dtype));
}

TEST_F(CrossEntropyTest, Local) {
    for (const DType dtype : dtypes)
        for (const Case& it : cases)
            expect_same(
                {column("largest", it.rows, 0.0), column("sum", it.rows, 1e-5),
                 column("target logit", it.rows, 0.0), logits_of({it.rows, it.columns}, dtype),
                 input_of("targets", {it.rows}, targets_of(it.rows, it.options.valid_columns))},
                [&](const std::vector<View>& v, Stream& stream) {
                    kernels::cross_entropy_local(v[0], v[1], v[2], v[3], v[4], it.options, stream);
                },
                text_of(it, dtype));
}

TEST_F(CrossEntropyTest, LogitsThatAreNotFinite) {
    constexpr float infinity = std::numeric_limits<float>::infinity();
    std::vector<float> values(4 * 3000, 0.5f);
    for (size_t i = 0; i < 2999; ++i)
        values[i] = -infinity;  // one logit is left in row 0
    values[3000 + 1500] = std::nanf("");
    values[6000 + 7] = infinity;
    for (const DType dtype : dtypes)
        expect_same(
            {output("largest", {4}, DType::f32, 0.0), output("sum", {4}, DType::f32, 1e-6),
             output("target logit", {4}, DType::f32, 0.0),
             input_of("logits", {4, 3000}, values, dtype),
             input_of("targets", {4}, std::vector<int32_t>{0, 1, 2, 3})},
            [&](const std::vector<View>& v, Stream& stream) {
                kernels::cross_entropy_local(v[0], v[1], v[2], v[3], v[4], {.valid_columns = 3000},
                                             stream);
            },
            "not finite");
}

TEST_F(CrossEntropyTest, Combine) {
    for (const int64_t ranks : {1, 3, 8})
        for (const int64_t rows : {1, 257, 5000}) {
            Operand parts = input("parts", {ranks, 3, rows});
            for (size_t i = 3; i < parts.bytes.size(); i += sizeof(float))
                parts.bytes[i] &= std::byte{0x7f};  // sums have no sign
            expect_same(
                {column("largest", rows, 0.0), column("sum", rows, 0.0),
                 column("target logit", rows, 0.0), parts},
                [](const std::vector<View>& v, Stream& stream) {
                    kernels::cross_entropy_combine(v[0], v[1], v[2], v[3], stream);
                },
                std::to_string(ranks) + " ranks, " + std::to_string(rows) + " rows");
        }
}

std::vector<Operand> finish_operands(int64_t rows, std::vector<int32_t> targets) {
    std::vector<float> sums(static_cast<size_t>(rows));
    for (size_t r = 0; r < sums.size(); ++r)
        sums[r] = 1.0f + static_cast<float>(r % 977);
    Operand largest = input("largest", {rows}), target_logit = largest;
    target_logit.name = "target logit";
    for (size_t r = 0; r < static_cast<size_t>(rows); r += 2)
        target_logit.bytes[4 * r + 3] |=
            std::byte{0x80};  // below the largest where that is above 0
    return {output("loss", {1}, DType::f64, 1e-12),
            output("entropy", {1}, DType::f64, 1e-12),
            output("weight", {1}, DType::i64, 0.0),
            output("correct", {1}, DType::i64, 0.0),
            output("log sum", {rows}, DType::f32, 1.2e-7),
            largest,
            input_of("sum", {rows}, sums),
            target_logit,
            input_of("targets", {rows}, targets)};
}

void finish(const std::vector<View>& v, const CrossEntropy& options, Stream& stream) {
    kernels::cross_entropy_finish(v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7], v[8], options,
                                  stream);
}

TEST_F(CrossEntropyTest, Finish) {
    for (const int64_t rows : {1, 31, 1024, 1025, 40009})
        for (const double z_loss : {0.0, 1e-4})
            expect_same(
                finish_operands(rows, targets_of(rows, 5000)),
                [&](const std::vector<View>& v, Stream& stream) {
                    finish(v, {.valid_columns = 5000, .z_loss = z_loss}, stream);
                },
                std::to_string(rows) + " rows");
}

TEST_F(CrossEntropyTest, ATargetOutsideOfTheVocabularyIsReported) {
    for (const int32_t bad : {5000, -1}) {
        std::vector<int32_t> targets(100, 3);
        targets[42] = bad;
        expect_error(
            ErrorKind::data,
            [&] {
                on_device(finish_operands(100, targets),
                          [&](const std::vector<View>& v, Stream& stream) {
                              finish(v, {.valid_columns = 5000, .first_row = 1000}, stream);
                          });
            },
            "target " + std::to_string(bad), "1042", "5000");
    }
}

TEST_F(CrossEntropyTest, Backward) {
    for (const DType dtype : dtypes)
        for (const Case& it : cases) {
            std::vector<float> log_sums(static_cast<size_t>(it.rows), 19.5f);
            expect_same(
                {in_out(logits_of({it.rows, it.columns}, dtype),
                        dtype == DType::bf16 ? 4e-3 : 1.2e-5),
                 input_of("dloss", {1}, std::vector<float>{0.37f}),
                 input_of("log sum", {it.rows}, log_sums),
                 input_of("targets", {it.rows}, targets_of(it.rows, it.options.valid_columns))},
                [&](const std::vector<View>& v, Stream& stream) {
                    kernels::cross_entropy_backward(v[0], v[1], v[2], v[3], it.options, stream);
                },
                text_of(it, dtype));
        }
}

}  // namespace
}  // namespace plinth::test
