// SPDX-License-Identifier: Apache-2.0
// Rows that a group of threads reads once and keeps in registers while it works on them.
#pragma once

#include <bit>

#include "kernels/cuda/rows.cuh"

namespace plinth::kernels::cuda {

/// N floats rounded to T: bf16 by the instruction that rounds two at once, to nearest even like
/// BFloat16's constructor.
template <typename T, int N>
__device__ inline Vector<T, N> rounded(const float (&x)[N]) {
    Vector<T, N> y;
    if constexpr (std::is_same_v<T, float>) {
#pragma unroll
        for (int j = 0; j < N; ++j)
            y.values[j] = x[j];
    } else if constexpr (N % 2 == 0) {
#pragma unroll
        for (int j = 0; j < N; j += 2) {
            const __nv_bfloat162 pair = __floats2bfloat162_rn(x[j], x[j + 1]);
            y.values[j].bits = __bfloat16_as_ushort(pair.x);
            y.values[j + 1].bits = __bfloat16_as_ushort(pair.y);
        }
    } else {
#pragma unroll
        for (int j = 0; j < N; ++j)
            y.values[j].bits = __bfloat16_as_ushort(__float2bfloat16_rn(x[j]));
    }
    return y;
}

template <int N, typename T>
__device__ inline Vector<T, N> load(const T* at) {
    return *reinterpret_cast<const Vector<T, N>*>(at);
}
template <int N, typename T>
__device__ inline void store(T* at, const Vector<T, N>& values) {
    *reinterpret_cast<Vector<T, N>*>(at) = values;
}

/// a + b, rounded to T: the bits of `add`.
template <typename T, int N>
__device__ inline Vector<T, N> plus(const Vector<T, N>& a, const Vector<T, N>& b) {
    float sum[N];
#pragma unroll
    for (int j = 0; j < N; ++j)
        sum[j] = to_float(a.values[j]) + to_float(b.values[j]);
    return rounded<T>(sum);
}

/// The share of one thread in a row of `vectors` vectors of N values: vectors lane, lane + threads,
/// ... With `held` > 0 at most that many, kept in registers; with 0 any number, read again (from
/// the cache, mostly) whenever they are asked for.
template <typename T, int N, int held>
struct RowShare {
    const T* row;
    int vectors, lane, threads;
    Vector<T, N> values[held > 0 ? held : 1];

    __device__ RowShare(const T* at, int count, int first, int step)
        : row(at), vectors(count), lane(first), threads(step) {
        if constexpr (held > 0) {
#pragma unroll
            for (int k = 0; k < held; ++k)
                if (lane + k * threads < vectors) values[k] = load<N>(row + column(k));
        }
    }
    /// Of the row `sum` from here on, which is this row and `other` added in T, and written.
    __device__ void add(T* sum, const T* other) {
        if constexpr (held > 0) {
#pragma unroll
            for (int k = 0; k < held; ++k)
                if (lane + k * threads < vectors)
                    values[k] = plus(values[k], load<N>(other + column(k)));
#pragma unroll
            for (int k = 0; k < held; ++k)
                if (lane + k * threads < vectors) store(sum + column(k), values[k]);
        } else {  // each thread reads again what it has written itself
            for (int k = 0; lane + k * threads < vectors; ++k)
                store(sum + column(k), plus(load<N>(row + column(k)), load<N>(other + column(k))));
        }
        row = sum;
    }
    __device__ int64_t column(int k) const {
        return int64_t{lane + k * threads} * N;
    }

    /// body(values, first column) for each vector.
    template <typename Body>
    __device__ void each(Body&& body) const {
        if constexpr (held > 0) {
#pragma unroll
            for (int k = 0; k < held; ++k)
                if (lane + k * threads < vectors) body(values[k], column(k));
        } else {
            for (int k = 0; lane + k * threads < vectors; ++k)
                body(load<N>(row + column(k)), column(k));
        }
    }
};

/// How the threads of a block share rows: `row_threads` take one row, and a block takes `rows`.
struct RowLaunch {
    int row_threads = 32, rows = 4, held = 0;
    bool is_wide = false;  ///< 16-byte vectors, else single values

    /// Width and alignment of all rows decide. A warp takes a row of up to 8 vectors a lane.
    static RowLaunch of(int64_t width, size_t element, bool is_aligned) {
        const auto per_vector = static_cast<int64_t>(16 / element);
        RowLaunch launch;
        launch.is_wide = is_aligned && width % per_vector == 0;
        const int64_t vectors = launch.is_wide ? width / per_vector : width;
        if (vectors > 32 * 8) launch = {256, 1, 0, launch.is_wide};
        const int64_t share = (vectors + launch.row_threads - 1) / launch.row_threads;
        launch.held = share <= 2 ? 2 : share <= 4 ? 4 : share <= 8 ? 8 : 0;
        return launch;
    }
    dim3 block() const {
        return dim3(static_cast<unsigned>(row_threads), static_cast<unsigned>(rows));
    }
    unsigned blocks(int64_t all_rows) const { return blocks_for(all_rows, rows); }
};

/// Sum over the threads of a row: a warp, or the whole block where it holds one row.
template <typename T>
__device__ inline T sum_over_row(T value) {
    return blockDim.x == 32 ? warp_sum(value) : block_sum(value);
}

/// Calls body(width, held) with integral constants for a launch of rows of T.
template <typename T, typename Body>
void with_row_launch(const RowLaunch& launch, Body&& body) {
    const auto with_width = [&](auto width) {
        switch (launch.held) {
            case 2:
                return body(width, std::integral_constant<int, 2>{});
            case 4:
                return body(width, std::integral_constant<int, 4>{});
            case 8:
                return body(width, std::integral_constant<int, 8>{});
            default:
                return body(width, std::integral_constant<int, 0>{});
        }
    };
    if (launch.is_wide)
        with_width(std::integral_constant<int, widest<T>>{});
    else
        with_width(std::integral_constant<int, 1>{});
}

}  // namespace plinth::kernels::cuda
