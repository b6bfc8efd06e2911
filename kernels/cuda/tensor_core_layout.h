// SPDX-License-Identifier: Apache-2.0
// Which lane of a warp holds which element in the product d [16, 8] += a [16, 16] b [16, 8] (PTX
// ISA, "Matrix Fragments for mma.m16n8k16 with floating point type"), and which addresses lanes
// give to load those from rows in shared memory (PTX ISA, "ldmatrix"). Without CUDA:
// tests/unit/kernels/tensor_core_layout.cpp holds the ISA's tables.
#pragma once

namespace plinth::kernels::cuda {

struct MatrixElement {
    int row, column;
    bool operator==(const MatrixElement&) const = default;
};

/// Element i of a lane's eight of a; register i / 2 holds it, even ones in its low half.
constexpr MatrixElement left_element(int lane, int i) {
    return {lane / 4 + i / 2 % 2 * 8, lane % 4 * 2 + i % 2 + i / 4 * 8};
}
/// Element i of a lane's four of b; register i / 2 holds it.
constexpr MatrixElement right_element(int lane, int i) {
    return {lane % 4 * 2 + i % 2 + i / 2 * 8, lane / 4};
}
/// Element i of a lane's four of d.
constexpr MatrixElement sum_element(int lane, int i) {
    return {lane / 4 + i / 2 * 8, lane % 4 * 2 + i % 2};
}

/// What lane `lane` points at, so that the four matrices loaded are a, of rows [row][column].
constexpr MatrixElement left_address(int lane) {
    return {lane % 16, lane / 16 * 8};
}
/// The same for two b side by side, [16, 8] each, from rows that hold their columns: row n of 16 is
/// column n % 8 of b number n / 8. Registers 0 and 1 are the first, 2 and 3 the second.
constexpr MatrixElement right_address(int lane) {
    return {lane / 16 * 8 + lane % 8, lane / 8 % 2 * 8};
}
/// The same for two b side by side from rows that are their rows, of 16 columns; by the transposed
/// load.
constexpr MatrixElement right_transposed_address(int lane) {
    return {lane % 16, lane / 16 * 8};
}

}  // namespace plinth::kernels::cuda
