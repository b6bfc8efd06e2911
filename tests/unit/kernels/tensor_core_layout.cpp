// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/tensor_core_layout.h"

#include <gtest/gtest.h>

#include <array>

namespace plinth::kernels::cuda {
namespace {

/// The figures of the PTX ISA for .bf16, row by row: which element index of which lane stands in
/// each column. Row r and row r + 8 of `a` are held by lanes 4 r .. 4 r + 3.
struct Held {
    int lane, index;
    bool operator==(const Held&) const = default;
};

template <int Rows, int Columns>
using Table = std::array<std::array<Held, Columns>, Rows>;

template <int Rows, int Columns, typename Element>
Table<Rows, Columns> table_of(int elements, Element&& element) {
    Table<Rows, Columns> table;
    for (auto& row : table)
        row.fill({-1, -1});
    for (int lane = 0; lane < 32; ++lane)
        for (int i = 0; i < elements; ++i) {
            const MatrixElement at = element(lane, i);
            Held& held = table.at(static_cast<size_t>(at.row)).at(static_cast<size_t>(at.column));
            EXPECT_EQ(held, (Held{-1, -1})) << "two hold " << at.row << ", " << at.column;
            held = {lane, i};
        }
    return table;
}

TEST(TensorCoreLayout, AsTheTablesOfTheIsa) {
    const auto a = table_of<16, 16>(8, left_element);
    const auto b = table_of<16, 8>(4, right_element);
    const auto d = table_of<16, 8>(4, sum_element);
    // Row 0 of a: T0:{a0,a1} T1:{a0,a1} T2 T3, then T0:{a4,a5} .. T3; row 8 has {a2,a3}, {a6,a7}.
    const std::array<Held, 16> row_0 = {{{0, 0},
                                         {0, 1},
                                         {1, 0},
                                         {1, 1},
                                         {2, 0},
                                         {2, 1},
                                         {3, 0},
                                         {3, 1},
                                         {0, 4},
                                         {0, 5},
                                         {1, 4},
                                         {1, 5},
                                         {2, 4},
                                         {2, 5},
                                         {3, 4},
                                         {3, 5}}};
    EXPECT_EQ(a[0], row_0);
    for (size_t row = 0; row < 8; ++row)
        for (size_t column = 0; column < 16; ++column) {
            const Held above = row_0[column];
            const int lane = above.lane + 4 * static_cast<int>(row);
            EXPECT_EQ(a[row][column], (Held{lane, above.index}));
            EXPECT_EQ(a[row + 8][column], (Held{lane, above.index + 2}));
        }
    // Column 0 of b: rows 0, 1 are T0:{b0,b1}, rows 2, 3 T1:{b0,b1}, ..; rows 8, 9 T0:{b2,b3}.
    for (size_t row = 0; row < 16; ++row)
        for (size_t column = 0; column < 8; ++column) {
            const int r = static_cast<int>(row);
            EXPECT_EQ(b[row][column],
                      (Held{4 * static_cast<int>(column) + r % 8 / 2, r < 8 ? r % 2 : 2 + r % 2}));
        }
    // Row 0 of d: T0:{c0,c1} T1:{c0,c1} ..; row 8: T0:{c2,c3} ...
    for (size_t row = 0; row < 16; ++row)
        for (size_t column = 0; column < 8; ++column) {
            const int r = static_cast<int>(row), c = static_cast<int>(column);
            EXPECT_EQ(d[row][column], (Held{4 * (r % 8) + c / 2, (r < 8 ? 0 : 2) + c % 2}));
        }
}

/// What a lane holds after ldmatrix.x4: element [row][column] of the rows in memory, for each half
/// of each register.
template <typename Address>
MatrixElement loaded(Address&& address, bool is_transposed, int lane, int reg, int half) {
    const int inner = 2 * (lane % 4) + half, outer = lane / 4;
    const int row = is_transposed ? inner : outer, column = is_transposed ? outer : inner;
    const MatrixElement begin = address(8 * reg + row);  // row `row` of matrix `reg`
    return {begin.row, begin.column + column};
}

TEST(TensorCoreLayout, LoadsGiveTheFragments) {
    for (int lane = 0; lane < 32; ++lane)
        for (int reg = 0; reg < 4; ++reg)
            for (int half = 0; half < 2; ++half) {
                EXPECT_EQ(loaded(left_address, false, lane, reg, half),
                          left_element(lane, 2 * reg + half));
                const MatrixElement in_b = right_element(lane, 2 * (reg % 2) + half);
                const int matrix = reg / 2;
                EXPECT_EQ(loaded(right_address, false, lane, reg, half),
                          (MatrixElement{8 * matrix + in_b.column, in_b.row}));
                EXPECT_EQ(loaded(right_transposed_address, true, lane, reg, half),
                          (MatrixElement{in_b.row, 8 * matrix + in_b.column}));
            }
}

/// Two blocks of sums side by side, [16, 8] each, are the left factor [16, 16] of the next product,
/// without an exchange between lanes.
TEST(TensorCoreLayout, SumsAreTheNextLeftFactor) {
    for (int lane = 0; lane < 32; ++lane)
        for (int i = 0; i < 8; ++i) {
            const int block = i / 4, element = i % 4;
            const MatrixElement sum = sum_element(lane, element);
            EXPECT_EQ(left_element(lane, i), (MatrixElement{sum.row, 8 * block + sum.column}));
        }
}

}  // namespace
}  // namespace plinth::kernels::cuda
