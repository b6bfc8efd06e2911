// SPDX-License-Identifier: Apache-2.0
// M rows, N columns, K inner extent.
#include "kernels/matmul.h"

#include <algorithm>
#include <cmath>

#include "tests/gpu/device_test.h"
#include "tests/support/cases/matmul.h"

namespace plinth::test {
namespace {

using kernels::Matmul;

struct Extents {
    int64_t m, n, k;
    std::string text() const { return fmt::format("{}x{}x{}", m, n, k); }
};

/// What both devices' sums of k products of values in [-1, 1) may differ by: fp32 sums in another
/// order; on the matrix units each partial sum is cut off, not rounded.
double tolerance(DType inputs, DType result, int64_t k) {
    const double of_sums = (inputs == DType::bf16 ? 1e-7 : 2.5e-8) * static_cast<double>(k);
    return of_sums + usual_tolerance(result);
}

/// Values in [-1, 1) as `input` gives, but quickly: for operands of many millions of elements.
Operand quick_input(const std::string& name, const Shape& shape, DType dtype) {
    std::vector<float> values(static_cast<size_t>(shape.elements()));
    uint32_t state = static_cast<uint32_t>(name.size()) * 0x9E3779B9u + 1u;
    for (float& value : values) {
        state = state * 1664525u + 1013904223u;
        value = static_cast<float>(static_cast<int32_t>(state >> 16) - 32768) * 0x1p-15f;
    }
    return input_of(name, shape, values, dtype);
}

class MatmulTest : public DeviceTest {
  protected:
    enum class Extra { nothing, bias, accumulate };

    static std::vector<Operand> operands(const Extents& e, Matmul options, DType inputs,
                                         DType result, Extra extra) {
        const Shape a = options.transpose_a ? Shape{e.k, e.m} : Shape{e.m, e.k};
        const Shape b = options.transpose_b ? Shape{e.n, e.k} : Shape{e.k, e.n};
        const double allowed = tolerance(inputs, result, e.k);
        Operand c = extra == Extra::accumulate
                        ? in_out(quick_input("c", {e.m, e.n}, result), allowed)
                        : output("c", {e.m, e.n}, result, allowed);
        std::vector<Operand> all = {c, quick_input("left", a, inputs),
                                    quick_input("right side", b, inputs)};
        if (extra == Extra::bias) all.push_back(quick_input("the bias", {e.n}, DType::f32));
        return all;
    }

    static Call call(Matmul options) {
        return [options](const std::vector<View>& v, Stream& stream) {
            kernels::matmul(v[0], v[1], v[2], v.size() > 3 ? ConstView(v[3]) : ConstView(), options,
                            stream);
        };
    }

    void expect_product(const Extents& e, Matmul options, DType inputs, DType result, Extra extra) {
        options.accumulate = extra == Extra::accumulate;
        expect_same(operands(e, options, inputs, result, extra), call(options),
                    fmt::format("{} {}{} {}->{} extra {}", e.text(),
                                options.transpose_a ? 'T' : 'N', options.transpose_b ? 'T' : 'N',
                                name_of(inputs), name_of(result), static_cast<int>(extra)));
    }

    /// Every pair of dtypes with every way to finish.
    void expect_all(const Extents& e, Matmul options) {
        for (const auto& [inputs, result] : {std::pair{DType::f32, DType::f32},
                                             {DType::bf16, DType::f32},
                                             {DType::bf16, DType::bf16}})
            for (const Extra extra : {Extra::nothing, Extra::bias, Extra::accumulate})
                expect_product(e, options, inputs, result, extra);
    }
};

TEST_F(MatmulTest, SharedCasesInAllLayouts) {
    for (const MatmulCase& c : matmul_test_cases)
        for (const bool transpose_a : {false, true})
            for (const bool transpose_b : {false, true})
                expect_all({c.rows, c.outputs, c.inputs}, {transpose_a, transpose_b});
}

TEST_F(MatmulTest, BothWithoutPromisedBits) {
    options_ = {};
    for (const MatmulCase& c : matmul_test_cases)
        expect_all({c.rows, c.outputs, c.inputs}, {.transpose_b = true});
}

TEST_F(MatmulTest, Gpt2AndLlamaProducts) {
    // The forward product, its input gradient and its weight gradient, at few tokens.
    for (const auto& [inputs, outputs] :
         {std::pair<int64_t, int64_t>{768, 2304}, {768, 3072}, {3072, 768}, {2048, 3072}}) {
        const int64_t tokens = 48;
        expect_product({tokens, outputs, inputs}, {.transpose_b = true}, DType::bf16, DType::bf16,
                       Extra::bias);
        expect_product({tokens, inputs, outputs}, {}, DType::bf16, DType::bf16, Extra::nothing);
        expect_product({outputs, inputs, tokens}, {.transpose_a = true}, DType::bf16, DType::f32,
                       Extra::accumulate);
    }
}

TEST_F(MatmulTest, WholeVocabularies) {
    // Rows of 50,257 bf16 elements begin at odd multiples of 2 bytes.
    for (const int64_t vocabulary : {50257, 50304}) {
        const int64_t width = 64, tokens = 5;
        for (const DType result : {DType::bf16, DType::f32})
            expect_product({tokens, vocabulary, width}, {.transpose_b = true}, DType::bf16, result,
                           Extra::nothing);
        expect_product({tokens, width, vocabulary}, {}, DType::bf16, DType::f32, Extra::nothing);
        expect_product({vocabulary, width, tokens}, {.transpose_a = true}, DType::bf16, DType::f32,
                       Extra::accumulate);
    }
}

TEST_F(MatmulTest, NoInnerExtent) {
    for (const Extra extra : {Extra::nothing, Extra::bias, Extra::accumulate}) {
        // Operands without elements have no memory: any address serves.
        const Matmul options{.accumulate = extra == Extra::accumulate};
        expect_same(
            operands({5, 7, 1}, {}, DType::bf16, DType::bf16, extra),
            [&](const std::vector<View>& v, Stream& stream) {
                const View a(v[1].data, DType::bf16, {5, 0}, v[1].device),
                    b(v[2].data, DType::bf16, {0, 7}, v[2].device);
                kernels::matmul(v[0], a, b, v.size() > 3 ? ConstView(v[3]) : ConstView(), options,
                                stream);
            },
            "no inner extent");
    }
}

/// The columns [first, first + columns) of a matrix.
View columns_of(const View& whole, int64_t first, int64_t columns) {
    auto* data =
        static_cast<std::byte*>(whole.data) + static_cast<size_t>(first) * size_of(whole.dtype);
    return {data, whole.dtype, Shape{whole.dim(0), columns}, whole.strides, whole.device};
}

TEST_F(MatmulTest, RowsApartAndOddAddresses) {
    // Parts of wider matrices, such as the queries among packed projections; what lies between the
    // rows stays.
    for (const int64_t first : {0, 1, 8})
        for (const DType inputs : {DType::f32, DType::bf16})
            for (const DType result : {inputs, DType::f32})
                for (const bool accumulate : {false, true}) {
                    const double allowed = tolerance(inputs, result, 24);
                    const std::vector<Operand> all = {in_out(input("c", {19, 43}, result), allowed),
                                                      input("left", {24, 37}, inputs),
                                                      input("right", {32, 47}, inputs),
                                                      input("bias", {33})};
                    expect_same(
                        all,
                        [&](const std::vector<View>& v, Stream& stream) {
                            const View bias(static_cast<float*>(v[3].data) + 1, DType::f32, {32},
                                            v[3].device);
                            kernels::matmul(columns_of(v[0], first, 32),
                                            columns_of(v[1], first, 19),
                                            columns_of(v[2], first, 24),
                                            accumulate ? ConstView() : ConstView(bias),
                                            {.transpose_a = true,
                                             .transpose_b = true,
                                             .accumulate = accumulate},
                                            stream);
                        },
                        fmt::format("from column {}", first));
                }
}

TEST_F(MatmulTest, AccumulatingIsTheProductThenOneAddition) {
    const Extents e{96, 64, 2048};
    const Matmul options{.transpose_a = true};
    const auto product =
        on_device(operands(e, options, DType::bf16, DType::f32, Extra::nothing), call(options));
    for (const DType result : {DType::f32, DType::bf16}) {
        const auto before = operands(e, options, DType::bf16, result, Extra::accumulate);
        const auto start = on_device(before, [](const std::vector<View>&, Stream&) {});
        const auto sum = on_device(before, call({.transpose_a = true, .accumulate = true}));
        for (size_t i = 0; i < sum[0].size(); ++i) {
            const float added = static_cast<float>(start[0][i]) + static_cast<float>(product[0][i]);
            const float expected =
                result == DType::bf16 ? static_cast<float>(BFloat16(added)) : added;
            ASSERT_EQ(static_cast<float>(sum[0][i]), expected) << name_of(result) << " " << i;
        }
    }
}

class TimedMatmulTest : public MatmulTest {
  protected:
    TimedMatmulTest() { options_ = {}; }
};

TEST_F(TimedMatmulTest, ProductsLongEnoughToBeTimed) {
    const Extents e{1024, 1024, 1536};
    expect_product(e, {}, DType::f32, DType::f32, Extra::nothing);
    expect_product(e, {}, DType::f32, DType::f32, Extra::accumulate);
    expect_product(e, {}, DType::f32, DType::f32, Extra::bias);
}

TEST_F(TimedMatmulTest, AnotherStreamTakesTheChosenAlgorithms) {
    const Extents e{512, 1024, 2048};
    const auto all = operands(e, {}, DType::f32, DType::f32, Extra::nothing);
    std::string saved;
    const auto first = on_device(all, [&](const std::vector<View>& v, Stream& stream) {
        call({})(v, stream);
        kernels::save_matmul_algorithms(saved, stream);
    });
    EXPECT_EQ(std::count(saved.begin(), saved.end(), '\n'), 2) << saved;
    // The stream of the views waits, so that another may read and write them.
    std::string again;
    const auto second = on_device(all, [&](const std::vector<View>& v, Stream& stream) {
        stream.synchronize();
        Stream other(stream.device(), 1, options_);
        bool is_taken = false;
        kernels::load_matmul_algorithms(is_taken, saved, other);
        EXPECT_TRUE(is_taken);
        call({})(v, other);
        other.synchronize();
        kernels::save_matmul_algorithms(again, other);
    });
    EXPECT_EQ(second, first);
    EXPECT_EQ(again, saved);
}

TEST_F(TimedMatmulTest, AStreamThatMayNotTimeWaitsForAnothersAlgorithms) {
    const Extents e{512, 1024, 2048};
    const auto all = operands(e, {}, DType::f32, DType::f32, Extra::nothing);
    std::string saved;
    const auto first = on_device(all, [&](const std::vector<View>& v, Stream& stream) {
        call({})(v, stream);
        kernels::save_matmul_algorithms(saved, stream);
    });
    const auto second = on_device(all, [&](const std::vector<View>& v, Stream& stream) {
        stream.synchronize();
        Stream other(stream.device(), 1, options_);
        kernels::let_matmul_be_timed(false, other);
        call({})(v, other);
        int64_t count = -1;
        kernels::count_matmul_algorithms(count, other);
        EXPECT_EQ(count, 0);
        // Also a product that has run takes what is loaded.
        bool is_taken = false;
        kernels::load_matmul_algorithms(is_taken, saved, other);
        EXPECT_TRUE(is_taken);
        call({})(v, other);
        other.synchronize();
        std::string again;
        kernels::save_matmul_algorithms(again, other);
        EXPECT_EQ(again, saved);
    });
    EXPECT_EQ(second, first);
}

class Tf32MatmulTest : public MatmulTest {
  protected:
    Tf32MatmulTest() { options_ = {.tf32 = true}; }
};

TEST_F(Tf32MatmulTest, InputsAreRoundedToTenBits) {
    const Extents e{256, 256, 256};
    const auto all = operands(e, {}, DType::f32, DType::f32, Extra::nothing);
    const auto device = on_device(all, call({})), host = on_host(all, call({}));
    double worst = 0.0;
    for (size_t i = 0; i < host[0].size(); ++i)
        worst = std::max(worst, std::abs(device[0][i] - host[0][i]));
    EXPECT_LT(worst, 3e-2);
    EXPECT_GT(worst, 1e-4) << "as exact as fp32: TF32 was not used";
}

using ColumnSumTest = DeviceTest;

TEST_F(ColumnSumTest, EveryColumn) {
    for (const auto& [rows, columns] : {std::pair<int64_t, int64_t>{1, 1},
                                        {1, 768},
                                        {64, 8},
                                        {65, 7},
                                        {97, 1},
                                        {129, 1031},
                                        {2100, 24},
                                        {4099, 768}})
        for (const DType dtype : {DType::f32, DType::bf16})
            expect_same(
                {output("dbias", {columns}, DType::f32, 5e-5), input("dy", {rows, columns}, dtype)},
                [](const std::vector<View>& v, Stream& stream) {
                    kernels::column_sum(v[0], v[1], stream);
                },
                fmt::format("{}x{} {}", rows, columns, name_of(dtype)));
}

TEST_F(ColumnSumTest, AnOddAddress) {
    expect_same(
        {output("dbias", {16}, DType::f32, 5e-5), input("dy", {130 * 16 + 1}, DType::bf16)},
        [](const std::vector<View>& v, Stream& stream) {
            const View dy(static_cast<BFloat16*>(v[1].data) + 1, DType::bf16, Shape{130, 16},
                          v[1].device);
            kernels::column_sum(v[0], dy, stream);
        },
        "from the second element");
}

}  // namespace
}  // namespace plinth::test
