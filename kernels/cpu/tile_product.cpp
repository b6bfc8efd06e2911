// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/tile_product.h"

#include <algorithm>

#include "kernels/runtime/error.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace plinth::kernels::cpu {

namespace {

/// What one register tile needs: rows of c are M, the inner extent k.
struct Panel {
    int64_t k;
    LeftOperand a;
    const float* b;
    int64_t ldb;
    float* c;
    int64_t ldc;
    bool accumulate;

    Panel at(int64_t row, int64_t column) const {
        Panel moved = *this;
        moved.a.data += row * a.row;
        moved.b += column;
        moved.c += row * ldc + column;
        return moved;
    }
};

constexpr int rows_per_tile = 6;

/// Cuts m rows into tiles of six and one of the rest, and calls tile.template operator()<rows>.
template <typename Tile>
void for_row_tiles(int64_t m, Tile&& tile) {
    int64_t row = 0;
    for (; row + rows_per_tile <= m; row += rows_per_tile)
        tile.template operator()<rows_per_tile>(row);
    switch (m - row) {
        case 1:
            return tile.template operator()<1>(row);
        case 2:
            return tile.template operator()<2>(row);
        case 3:
            return tile.template operator()<3>(row);
        case 4:
            return tile.template operator()<4>(row);
        case 5:
            return tile.template operator()<5>(row);
        default:
            return;
    }
}

#if defined(__x86_64__)

/// M rows times V vectors of 16 floats: 6 x 4 accumulators fill the 32 registers.
template <int M, int V>
__attribute__((target("avx512f"))) void avx512_tile(const Panel& p) {
    __m512 sum[M][V];
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i)
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v)
            sum[i][v] =
                p.accumulate ? _mm512_loadu_ps(p.c + i * p.ldc + v * 16) : _mm512_setzero_ps();
    const float* a = p.a.data;
    const float* b = p.b;
    for (int64_t step = 0; step < p.k; ++step, a += p.a.column, b += p.ldb) {
        __m512 right[V];
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v)
            right[v] = _mm512_loadu_ps(b + v * 16);
#pragma GCC unroll 8
        for (int i = 0; i < M; ++i) {
            const __m512 left = _mm512_set1_ps(a[i * p.a.row]);
#pragma GCC unroll 8
            for (int v = 0; v < V; ++v)
                sum[i][v] = _mm512_fmadd_ps(left, right[v], sum[i][v]);
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i)
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v)
            _mm512_storeu_ps(p.c + i * p.ldc + v * 16, sum[i][v]);
}

void avx512_product(int64_t m, int64_t n, const Panel& panel) {
    int64_t column = 0;
    const auto columns = [&]<int V>() {
        for (; column + V * 16 <= n; column += V * 16)
            for_row_tiles(m, [&]<int M>(int64_t row) { avx512_tile<M, V>(panel.at(row, column)); });
    };
    columns.template operator()<4>();
    columns.template operator()<2>();
    columns.template operator()<1>();
}

/// M rows times 16 floats in two AVX2 registers: 6 x 2 accumulators of the 16 registers.
template <int M>
__attribute__((target("avx2,fma"))) void avx2_tile(const Panel& p) {
    __m256 sum[M][2];
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i)
#pragma GCC unroll 2
        for (int v = 0; v < 2; ++v)
            sum[i][v] =
                p.accumulate ? _mm256_loadu_ps(p.c + i * p.ldc + v * 8) : _mm256_setzero_ps();
    const float* a = p.a.data;
    const float* b = p.b;
    for (int64_t step = 0; step < p.k; ++step, a += p.a.column, b += p.ldb) {
        const __m256 right[2] = {_mm256_loadu_ps(b), _mm256_loadu_ps(b + 8)};
#pragma GCC unroll 8
        for (int i = 0; i < M; ++i) {
            const __m256 left = _mm256_set1_ps(a[i * p.a.row]);
            sum[i][0] = _mm256_fmadd_ps(left, right[0], sum[i][0]);
            sum[i][1] = _mm256_fmadd_ps(left, right[1], sum[i][1]);
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i)
#pragma GCC unroll 2
        for (int v = 0; v < 2; ++v)
            _mm256_storeu_ps(p.c + i * p.ldc + v * 8, sum[i][v]);
}

#endif

/// The same chains without vector registers.
template <int M>
void portable_tile(const Panel& p) {
    float sum[M][tile_lanes];
    for (int i = 0; i < M; ++i)
        for (int v = 0; v < tile_lanes; ++v)
            sum[i][v] = p.accumulate ? p.c[i * p.ldc + v] : 0.0f;
    for (int64_t step = 0; step < p.k; ++step)
        for (int i = 0; i < M; ++i) {
            const float left = p.a.data[i * p.a.row + step * p.a.column];
            for (int v = 0; v < tile_lanes; ++v)
                sum[i][v] = __builtin_fmaf(left, p.b[step * p.ldb + v], sum[i][v]);
        }
    for (int i = 0; i < M; ++i)
        std::copy_n(sum[i], tile_lanes, p.c + i * p.ldc);
}

void narrow_product(int64_t m, int64_t n, const Panel& panel) {
#if defined(__x86_64__)
    static const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
    constexpr bool has_avx2 = false;
#endif
    for (int64_t column = 0; column < n; column += tile_lanes)
        for_row_tiles(m, [&]<int M>(int64_t row) {
#if defined(__x86_64__)
            if (has_avx2) return avx2_tile<M>(panel.at(row, column));
#endif
            portable_tile<M>(panel.at(row, column));
        });
}

}  // namespace

void tile_product(int64_t m, int64_t n, int64_t k, LeftOperand a, const float* b, int64_t ldb,
                  float* c, int64_t ldc, bool accumulate) {
    CHECK(n % tile_lanes == 0, "tile_product: {} columns are no multiple of {}", n, tile_lanes);
    const Panel panel{k, a, b, ldb, c, ldc, accumulate};
#if defined(__x86_64__)
    static const bool has_avx512 = __builtin_cpu_supports("avx512f");
    if (has_avx512) return avx512_product(m, n, panel);
#endif
    narrow_product(m, n, panel);
}

}  // namespace plinth::kernels::cpu
