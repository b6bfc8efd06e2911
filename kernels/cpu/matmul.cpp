// SPDX-License-Identifier: Apache-2.0
#include "kernels/matmul.h"

#include <algorithm>
#include <memory>
#include <vector>

#include "kernels/cpu/gemm.h"
#include "kernels/simd.h"

namespace plinth::kernels::cpu {

namespace {

// One oneDNN call on one thread is fastest on output tiles of about this size, in all three layouts
// (benchmarks/ops/matmul).
constexpr int64_t tile_extent = 384;
constexpr int64_t smallest_extent = 96;
constexpr int64_t wanted_tiles = 8;
// The library's own blocks. Tiles of another multiple leave it ragged ones, which cost up to half
// the rate of AMX.
constexpr int64_t extent_multiple = 32;

int64_t pieces(int64_t extent, int64_t tile) {
    return std::max<int64_t>(1, (extent + tile - 1) / tile);
}

/// The extent of equal tiles, but for the last, smaller one.
int64_t even_extent(int64_t extent, int64_t tile) {
    const int64_t count = pieces(extent, tile), even = (extent + count - 1) / count;
    return std::min(extent, pieces(even, extent_multiple) * extent_multiple);
}

/// Extents of the output tiles: a function of the shape alone.
struct Tiling {
    int64_t m, n;
    Tiling(int64_t rows, int64_t columns)
        : m(std::min(tile_extent, rows)), n(std::min(tile_extent, columns)) {
        while (pieces(rows, m) * pieces(columns, n) < wanted_tiles &&
               std::max(m, n) > smallest_extent)
            (m >= n ? m : n) /= 2;
        m = even_extent(rows, m);
        n = even_extent(columns, n);
    }
};

PLINTH_SIMD void add_row(float* c, const float* product, int64_t n) {
    for (int64_t i = 0; i < n; ++i)
        c[i] += product[i];
}

PLINTH_SIMD void add_bias_row(float* c, const float* bias, int64_t n) {
    for (int64_t i = 0; i < n; ++i)
        c[i] += bias[i];
}

PLINTH_SIMD void add_bias_row(BFloat16* c, const float* product, const float* bias, int64_t n) {
    for (int64_t i = 0; i < n; ++i)
        c[i] = BFloat16(product[i] + bias[i]);
}

PLINTH_SIMD void add_row(BFloat16* c, const float* product, int64_t n) {
    for (int64_t i = 0; i < n; ++i)
        c[i] = BFloat16(static_cast<float>(c[i]) + product[i]);
}

/// One output tile: the product, in scratch when it must be added to something that is not fp32 in
/// place.
struct Tile {
    int64_t row, column, m, n;
};

void multiply(View c, ConstView a, ConstView b, int64_t k, const Matmul& options, Tile tile,
              void* out, DType out_dtype, int64_t out_stride) {
    const auto bytes = static_cast<int64_t>(size_of(a.dtype));
    const auto* a_data = static_cast<const std::byte*>(a.data);
    const auto* b_data = static_cast<const std::byte*>(b.data);
    const Operand left{a_data + bytes * tile.row * (options.transpose_a ? 1 : a.stride(0)),
                       a.stride(0), options.transpose_a};
    const Operand right{b_data + bytes * tile.column * (options.transpose_b ? b.stride(0) : 1),
                        b.stride(0), options.transpose_b};
    if (a.dtype == DType::f32) {
        CHECK(out_dtype == DType::f32, "matmul: fp32 operands give fp32, not {}", name_of(c.dtype));
        sgemm(tile.m, tile.n, k, left, right, static_cast<float*>(out), out_stride);
    } else {
        bf16_gemm(tile.m, tile.n, k, left, right, out, out_dtype, out_stride);
    }
}

void compute_tile(View c, ConstView a, ConstView b, ConstView bias, int64_t k,
                  const Matmul& options, Tile tile) {
    const auto bytes = static_cast<int64_t>(size_of(c.dtype));
    auto* c_tile = static_cast<std::byte*>(c.data) + bytes * (tile.row * c.stride(0) + tile.column);
    const bool rounds_after = c.dtype != DType::f32 && bias;
    if (!options.accumulate && !rounds_after) {
        multiply(c, a, b, k, options, tile, c_tile, c.dtype, c.stride(0));
        for (int64_t r = 0; bias && r < tile.m; ++r)
            add_bias_row(reinterpret_cast<float*>(c_tile) + r * c.stride(0),
                         bias.as<float>() + tile.column, tile.n);
        return;
    }
    CHECK(!(options.accumulate && bias), "matmul: bias and accumulate exclude each other");
    const auto product =
        std::make_unique_for_overwrite<float[]>(static_cast<size_t>(tile.m * tile.n));
    multiply(c, a, b, k, options, tile, product.get(), DType::f32, tile.n);
    for (int64_t r = 0; r < tile.m; ++r) {
        const float* row = product.get() + r * tile.n;
        if (rounds_after)
            add_bias_row(reinterpret_cast<BFloat16*>(c_tile) + r * c.stride(0), row,
                         bias.as<float>() + tile.column, tile.n);
        else if (c.dtype == DType::f32)
            add_row(reinterpret_cast<float*>(c_tile) + r * c.stride(0), row, tile.n);
        else
            add_row(reinterpret_cast<BFloat16*>(c_tile) + r * c.stride(0), row, tile.n);
    }
}

}  // namespace

void matmul(View c, ConstView a, ConstView b, ConstView bias, Matmul options, Stream& stream) {
    CHECK(c.shape.rank() == 2 && a.shape.rank() == 2 && b.shape.rank() == 2,
          "matmul takes matrices, got {} = {} x {}", c.shape.text(), a.shape.text(),
          b.shape.text());
    const int64_t m = c.dim(0), n = c.dim(1), k = a.dim(options.transpose_a ? 0 : 1);
    CHECK(a.dim(options.transpose_a ? 1 : 0) == m && b.dim(options.transpose_b ? 1 : 0) == k &&
              b.dim(options.transpose_b ? 0 : 1) == n && a.dtype == b.dtype &&
              (!bias || bias.elements() == n),
          "matmul: {} = {}{} x {}{} does not fit", c.shape.text(), a.shape.text(),
          options.transpose_a ? "^T" : "", b.shape.text(), options.transpose_b ? "^T" : "");
    if (m == 0 || n == 0) return;
    const Tiling tiling(m, n);
    const int64_t columns = pieces(n, tiling.n);
    stream.pool().run(pieces(m, tiling.m) * columns, [&](int64_t index) {
        const int64_t row = index / columns * tiling.m, column = index % columns * tiling.n;
        compute_tile(c, a, b, bias, k, options,
                     {row, column, std::min(tiling.m, m - row), std::min(tiling.n, n - column)});
    });
}

namespace {

PLINTH_SIMD void accumulate_row(float* sum, const float* row, int64_t n) {
    for (int64_t i = 0; i < n; ++i)
        sum[i] += row[i];
}

PLINTH_SIMD void accumulate_row(float* sum, const BFloat16* row, int64_t n) {
    for (int64_t i = 0; i < n; ++i)
        sum[i] += static_cast<float>(row[i]);
}

template <typename T>
void column_sum_of(View dbias, ConstView dy, Stream& stream) {
    constexpr int64_t rows_per_block = 64;
    const int64_t m = dy.shape.rows(), n = dy.dim(-1), blocks = pieces(m, rows_per_block);
    const T* data = dy.as<T>();
    std::vector<float> partial(static_cast<size_t>(blocks * n), 0.0f);
    parallel_for(stream, m, rows_per_block, [&](int64_t begin, int64_t end) {
        float* sum = partial.data() + begin / rows_per_block * n;
        for (int64_t r = begin; r < end; ++r)
            accumulate_row(sum, data + r * n, n);
    });
    float* out = dbias.as<float>();
    std::copy_n(partial.data(), n, out);
    for (int64_t block = 1; block < blocks; ++block)
        accumulate_row(out, partial.data() + block * n, n);
}

}  // namespace

void column_sum(View dbias, ConstView dy, Stream& stream) {
    CHECK(dbias.elements() == dy.dim(-1) && dy.is_contiguous(), "column_sum: {} from {}",
          dbias.shape.text(), dy.shape.text());
    dy.dtype == DType::f32 ? column_sum_of<float>(dbias, dy, stream)
                           : column_sum_of<BFloat16>(dbias, dy, stream);
}

void save_matmul_algorithms(std::string& text, Stream&) {
    text.clear();
}

void count_matmul_algorithms(int64_t& count, Stream&) {
    count = 0;
}

void load_matmul_algorithms(bool& is_taken, const std::string&, Stream&) {
    is_taken = false;
}

void let_matmul_be_timed(bool, Stream&) {}

}  // namespace plinth::kernels::cpu
