// SPDX-License-Identifier: Apache-2.0
// kernels/cuda/tensor_core.cuh for the CPU. A warp's lanes exchange what they hold, and each
// computes its own part; asynchronous copies are made as late as they may be, when their thread
// waits for them, so that whoever reads too early finds old bytes.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "kernels/cuda/tensor_core_layout.h"
#include "tests/emulation/block.h"

namespace plinth::kernels::cuda {

namespace emulated {

struct Factors {
    uint32_t a[4], b[2];
};

/// Element `half` of two bf16 in a register.
inline float half_of(uint32_t word, int half) {
    const uint32_t wide = half == 0 ? word << 16 : word & 0xffff0000u;
    float value;
    std::memcpy(&value, &wide, sizeof(value));
    return value;
}

inline std::array<const std::byte*, 32> rows_of_lanes(const char* what, const void* shared) {
    const emulation::Lanes& lanes = emulation::exchange(0xffffffffu, what, &shared, sizeof(shared));
    std::array<const std::byte*, 32> rows;
    for (size_t lane = 0; lane < 32; ++lane)
        std::memcpy(&rows[lane], lanes.values[lane].data(), sizeof(rows[lane]));
    return rows;
}

inline uint32_t pair_of(const std::byte* low, const std::byte* high) {
    uint16_t halves[2];
    std::memcpy(&halves[0], low, 2);
    std::memcpy(&halves[1], high, 2);
    return halves[0] | static_cast<uint32_t>(halves[1]) << 16;
}

struct Copy {
    void* shared;
    const void* global;
    int bytes;
};
/// Of one thread; the last group is not committed yet.
using CopyGroups = std::vector<std::vector<Copy>>;

inline CopyGroups& copies_of_thread() {
    struct Block {
        const emulation::Place* place = nullptr;
        std::array<unsigned, 3> index{};
        std::map<unsigned, CopyGroups> threads;
    };
    static thread_local Block block;
    const emulation::Place& here = emulation::place();
    const std::array<unsigned, 3> index{here.block.x, here.block.y, here.block.z};
    if (block.place != &here || block.index != index) block = {&here, index, {}};
    CopyGroups& groups = block.threads[here.thread.x];
    if (groups.empty()) groups.emplace_back();
    return groups;
}

}  // namespace emulated

inline void mma_16x8x16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    const emulated::Factors mine{{a[0], a[1], a[2], a[3]}, {b0, b1}};
    const emulation::Lanes& lanes =
        emulation::exchange(0xffffffffu, "mma_16x8x16", &mine, sizeof(mine));
    const auto given = [&](int lane) {
        emulated::Factors factors;
        std::memcpy(&factors, lanes.values[static_cast<size_t>(lane)].data(), sizeof(factors));
        return factors;
    };
    // What this lane's sums need: two rows of a, two columns of b. Each is held by four lanes.
    const MatrixElement first = sum_element(static_cast<int>(emulation::lane()), 0);
    float left[16][16], right[16][8];
    for (int lane = 4 * first.row; lane < 4 * first.row + 4; ++lane) {
        const emulated::Factors factors = given(lane);
        for (int i = 0; i < 8; ++i) {
            const MatrixElement at = left_element(lane, i);
            left[at.row][at.column] = emulated::half_of(factors.a[i / 2], i % 2);
        }
    }
    for (int lane = 4 * first.column; lane < 4 * first.column + 8; ++lane) {
        const emulated::Factors factors = given(lane);
        for (int i = 0; i < 4; ++i) {
            const MatrixElement at = right_element(lane, i);
            right[at.row][at.column] = emulated::half_of(factors.b[i / 2], i % 2);
        }
    }
    for (int i = 0; i < 4; ++i) {
        const MatrixElement at = sum_element(static_cast<int>(emulation::lane()), i);
        for (int k = 0; k < 16; ++k)
            d[i] += left[at.row][k] * right[k][at.column];
    }
}

inline void load_matrix_x4(uint32_t (&r)[4], const void* shared) {
    const auto rows = emulated::rows_of_lanes("load_matrix_x4", shared);
    const unsigned lane = emulation::lane();
    for (unsigned m = 0; m < 4; ++m) {
        const std::byte* pair = rows[8 * m + lane / 4] + lane % 4 * 4;
        r[m] = emulated::pair_of(pair, pair + 2);
    }
}

inline void load_matrix_x4_transposed(uint32_t (&r)[4], const void* shared) {
    const auto rows = emulated::rows_of_lanes("load_matrix_x4_transposed", shared);
    const unsigned lane = emulation::lane();
    for (unsigned m = 0; m < 4; ++m)
        r[m] = emulated::pair_of(rows[8 * m + lane % 4 * 2] + lane / 4 * 2,
                                 rows[8 * m + lane % 4 * 2 + 1] + lane / 4 * 2);
}

inline void copy_async_16(void* shared, const void* global, int bytes) {
    emulated::copies_of_thread().back().push_back({shared, global, bytes});
}

inline void commit_copies() {
    emulated::copies_of_thread().emplace_back();
}

template <int Pending>
inline void wait_for_copies() {
    emulated::CopyGroups& groups = emulated::copies_of_thread();
    while (groups.size() > Pending + 1) {
        for (const emulated::Copy& copy : groups.front()) {
            std::memset(copy.shared, 0, 16);
            std::memcpy(copy.shared, copy.global, static_cast<size_t>(copy.bytes));
        }
        groups.erase(groups.begin());
    }
}

inline float power_of_two(float x) {
    const float y = std::exp2(x);
    return y < 0x1p-126f ? 0.0f : y;
}

}  // namespace plinth::kernels::cuda
