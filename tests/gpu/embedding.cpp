// SPDX-License-Identifier: Apache-2.0
#include "kernels/embedding.h"

#include <algorithm>

#include "tests/gpu/device_test.h"
#include "tests/support/expect_error.h"

namespace plinth::test {
namespace {

using EmbeddingTest = DeviceTest;
using kernels::TableRows;

constexpr DType dtypes[] = {DType::f32, DType::bf16};

/// Ids of [0, vocabulary), most of them few: like text, some ids come very often.
std::vector<int32_t> ids_of(int64_t n, int64_t vocabulary) {
    std::vector<int32_t> ids;
    uint64_t state = 1;
    for (int64_t i = 0; i < n; ++i) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        const double u = static_cast<double>(state >> 40) * 0x1p-24;
        ids.push_back(static_cast<int32_t>(u * u * u * u * static_cast<double>(vocabulary)));
    }
    return ids;
}

std::string text_of(int64_t n, int64_t held, int64_t width, DType dtype) {
    return std::to_string(n) + " ids, table " + Shape{held, width}.text() + " " +
           std::string(name_of(dtype));
}

/// n ids, the rows of the table here, its width, and where it lies.
struct Case {
    int64_t n, held, width;
    TableRows rows;
};

const Case cases[] = {{1, 1, 1, {0, 1}},
                      {7, 5, 3, {0, 5}},
                      {64, 11, 8, {0, 11}},
                      {65, 300, 257, {0, 300}},
                      {500, 1, 40, {0, 1}},
                      {1000, 100, 768, {50, 400}},
                      {1000, 100, 24, {300, 400}},
                      {4096, 5000, 264, {0, 5000}},
                      {5003, 50304, 40, {0, 50304}}};

TEST_F(EmbeddingTest, Forward) {
    for (const DType dtype : dtypes)
        for (const Case& it : cases)
            for (const bool has_positions : {true, false}) {
                std::vector<int32_t> places;
                for (int64_t i = 0; i < it.n; ++i)
                    places.push_back(static_cast<int32_t>(i * 31 % 77));
                const Operand none{.shape = {0}};
                expect_same(
                    {output("y", {it.n, it.width}, dtype, 0.0),
                     input_of("ids", {it.n}, ids_of(it.n, it.rows.total)),
                     input("table", {it.held, it.width}, dtype),
                     has_positions ? input_of("positions", {it.n}, places) : none,
                     has_positions ? input("position table", {77, it.width}, dtype) : none},
                    [&](const std::vector<View>& v, Stream& stream) {
                        kernels::embedding_forward(v[0], v[1], v[2], v[3], v[4], it.rows, stream);
                    },
                    text_of(it.n, it.held, it.width, dtype));
            }
}

TEST_F(EmbeddingTest, IdsWithoutARowAreReported) {
    std::vector<int32_t> good(100, 3);
    const auto run = [&](const std::vector<int32_t>& ids, const std::vector<int32_t>& positions) {
        on_device({output("y", {100, 16}, DType::f32, 0.0), input_of("ids", {100}, ids),
                   input("table", {50, 16}), input_of("positions", {100}, positions),
                   input("position table", {20, 16})},
                  [&](const std::vector<View>& v, Stream& stream) {
                      kernels::embedding_forward(v[0], v[1], v[2], v[3], v[4], {0, 50}, stream);
                  });
    };
    for (const int32_t bad : {50, -1}) {
        std::vector<int32_t> one_bad = good;
        one_bad[42] = bad;
        expect_error(
            ErrorKind::data, [&] { run(one_bad, good); }, std::to_string(bad), "42", "50");
        expect_error(
            ErrorKind::data, [&] { run(good, one_bad); }, std::to_string(bad), "42", "20");
    }
}

TEST_F(EmbeddingTest, Backward) {
    for (const DType dtype : dtypes)
        for (const Case& it : cases)
            expect_same(
                {output("dtable", {it.held, it.width}, DType::f32, 1e-4),
                 input("dy", {it.n, it.width}, dtype),
                 input_of("ids", {it.n}, ids_of(it.n, it.rows.total))},
                [&](const std::vector<View>& v, Stream& stream) {
                    kernels::embedding_backward(v[0], v[1], v[2], it.rows, false, stream);
                },
                text_of(it.n, it.held, it.width, dtype));
}

// Up to 64 rows an id the order is that of the host: the same bits.
TEST_F(EmbeddingTest, RareIdsHaveTheSumsOfTheHost) {
    std::vector<int32_t> ids;
    for (int32_t i = 0; i < 64 * 30; ++i)
        ids.push_back(i * 7 % 30 * 3);
    for (const DType dtype : dtypes)
        expect_same(
            {output("dtable", {90, 104}, DType::f32, 0.0), input("dy", {64 * 30, 104}, dtype),
             input_of("ids", {64 * 30}, ids)},
            [&](const std::vector<View>& v, Stream& stream) {
                kernels::embedding_backward(v[0], v[1], v[2], {0, 90}, false, stream);
            },
            std::string(name_of(dtype)));
}

// Each finished sum is added once: the same bits as those of the host again.
TEST_F(EmbeddingTest, BackwardAccumulates) {
    for (const DType dtype : dtypes)
        for (const Case& it : cases) {
            const auto ids = ids_of(it.n, it.rows.total);
            std::vector<int32_t> times(static_cast<size_t>(it.rows.total));
            for (const int32_t id : ids)
                ++times[static_cast<size_t>(id)];
            const bool is_rare = it.n == 0 || *std::ranges::max_element(times) <= 64;
            expect_same(
                {in_out(input("sum", {it.held, it.width}), is_rare ? 0.0 : 1e-4),
                 input("dy", {it.n, it.width}, dtype), input_of("ids", {it.n}, ids)},
                [&](const std::vector<View>& v, Stream& stream) {
                    kernels::embedding_backward(v[0], v[1], v[2], it.rows, true, stream);
                },
                text_of(it.n, it.held, it.width, dtype));
        }
}

// A part of a vocabulary gives the rows of the whole, also of ids that come often.
TEST_F(EmbeddingTest, ACutTableHasTheRowsOfTheWhole) {
    const auto rows_of = [&](int64_t first, int64_t held) {
        return on_device(
            {output("dtable", {held, 24}, DType::f32, 0.0), input("dy", {3000, 24}),
             input_of("ids", {3000}, ids_of(3000, 40))},
            [&](const std::vector<View>& v, Stream& stream) {
                kernels::embedding_backward(v[0], v[1], v[2], {first, 40}, false, stream);
            })[0];
    };
    auto both = rows_of(0, 13);
    const auto rest = rows_of(13, 27);
    both.insert(both.end(), rest.begin(), rest.end());
    EXPECT_EQ(both, rows_of(0, 40));
}

}  // namespace
}  // namespace plinth::test
