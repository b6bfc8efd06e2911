// SPDX-License-Identifier: Apache-2.0
// R rows and C columns of a matrix.
#include "kernels/fp8.h"

#include <cuda_fp8.h>

#include "kernels/cuda/rows.cuh"

namespace plinth::kernels::cuda {

namespace {

constexpr int threads = 256;

/// Eight values from an address that 16 bytes divide.
template <typename T>
__device__ void load_eight(float (&values)[8], const T* data) {
    constexpr int width = widest<T>;
#pragma unroll
    for (int i = 0; i < 8; i += width) {
        const auto part = *reinterpret_cast<const Vector<T, width>*>(data + i);
#pragma unroll
        for (int j = 0; j < width; ++j)
            values[i + j] = to_float(part.values[j]);
    }
}

__device__ bool is_known(const float* scale) {
    return scale && *scale > 0.0f;
}

/// The largest |x| as fp32 bits, which as integers stand in the same order, NaN above all: so the
/// order of the atomics does not matter. Moves x once, and nothing where a scale is known.
template <typename T>
__global__ void largest_magnitude(uint32_t* largest, const T* x, const float* known, int64_t n,
                                  bool is_vector) {
    if (is_known(known)) return;
    uint32_t found = 0;
    const int64_t step = int64_t{gridDim.x} * threads;
    int64_t i = int64_t{blockIdx.x} * threads + threadIdx.x;
    if (is_vector) {
        float values[8];
        for (; i < n / 8; i += step) {
            load_eight(values, x + i * 8);
#pragma unroll
            for (const float value : values)
                found = max(found, __float_as_uint(value) & 0x7fffffffu);
        }
        i = n / 8 * 8 + int64_t{blockIdx.x} * threads + threadIdx.x;
    }
    for (; i < n; i += step)
        found = max(found, __float_as_uint(to_float(x[i])) & 0x7fffffffu);
    found = __reduce_max_sync(0xffffffffu, found);
    if (threadIdx.x % 32 == 0 && found > 0) atomicMax(largest, found);
}

__global__ void set_scale(float* scale, const uint32_t* largest, const float* known, Fp8 format) {
    *scale = is_known(known) ? *known : fp8_scale_for(*largest, format);
}

/// Two values as 8 bits each; the instruction rounds and saturates as fp8_bits does.
template <Fp8 format>
__device__ uint32_t two_bits(float low, float high) {
    return __nv_cvt_float2_to_fp8x2(make_float2(low, high), __NV_SATFINITE,
                                    format == Fp8::e4m3 ? __NV_E4M3 : __NV_E5M2);
}

constexpr int tile = 128;  // rows and columns
/// Words of 4 columns. Each 16 rows begin 4 banks further, so that the 32 words that a warp reads
/// for a transposed store (8 times 16 rows, 4 words of a row) lie in 32 banks.
constexpr int tile_words = tile * tile / 4 + tile / 16 * 4;
__device__ int word_of(int row, int word) {
    return row * (tile / 4) + row / 16 * 4 + word;
}

/// A tile of x goes row by row into y and, through shared memory, column by column into
/// `transposed`. Moves x once, and a byte an element for each output. `largest` is a magnitude's
/// fp32 bits, as in largest_magnitude.
template <Fp8 format, typename T>
__global__ void quantize(uint8_t* y, uint8_t* transposed, uint32_t* largest, const T* x,
                         const float* scale, int64_t rows, int64_t columns) {
    __shared__ alignas(16) uint32_t bits[tile_words];
    const float reciprocal = 1.0f / *scale;
    uint32_t found = 0;
    const int64_t first_row = int64_t{blockIdx.x} * tile, first_column = int64_t{blockIdx.y} * tile;
    for (int i = threadIdx.x; i < tile * tile / 8; i += threads) {
        const int row = i / (tile / 8), column = i % (tile / 8) * 8;
        if (first_row + row >= rows || first_column + column >= columns) continue;
        const int64_t at = (first_row + row) * columns + first_column + column;
        float values[8];
        load_eight(values, x + at);
        if (largest) {
#pragma unroll
            for (const float value : values)
                found = max(found, __float_as_uint(value) & 0x7fffffffu);
        }
        Vector<uint32_t, 2> packed;
#pragma unroll
        for (int j = 0; j < 2; ++j) {
            const float* four = values + 4 * j;
            packed.values[j] = two_bits<format>(four[0] * reciprocal, four[1] * reciprocal) |
                               two_bits<format>(four[2] * reciprocal, four[3] * reciprocal) << 16;
        }
        if (y) *reinterpret_cast<Vector<uint32_t, 2>*>(y + at) = packed;
        *reinterpret_cast<Vector<uint32_t, 2>*>(bits + word_of(row, column / 4)) = packed;
    }
    if (largest) {
        found = __reduce_max_sync(0xffffffffu, found);
        if (threadIdx.x % 32 == 0 && found > 0) atomicMax(largest, found);
    }
    if (!transposed) return;
    __syncthreads();
    // A thread turns 16 rows of 4 columns into 4 rows of 16 bytes.
    for (int i = threadIdx.x; i < tile / 16 * (tile / 4); i += threads) {
        const int row = i % (tile / 16) * 16, word = i / (tile / 16);
        if (first_row + row >= rows || first_column + word * 4 >= columns) continue;
        Vector<uint32_t, 4> out[4];
#pragma unroll
        for (int quarter = 0; quarter < 4; ++quarter) {
            uint32_t in[4];
#pragma unroll
            for (int j = 0; j < 4; ++j)
                in[j] = bits[word_of(row + quarter * 4 + j, word)];
            // Bytes of column c out of the four rows: first by pairs, then the pairs.
            const uint32_t low01 = __byte_perm(in[0], in[1], 0x5140);
            const uint32_t low23 = __byte_perm(in[2], in[3], 0x5140);
            const uint32_t high01 = __byte_perm(in[0], in[1], 0x7362);
            const uint32_t high23 = __byte_perm(in[2], in[3], 0x7362);
            out[0].values[quarter] = __byte_perm(low01, low23, 0x5410);
            out[1].values[quarter] = __byte_perm(low01, low23, 0x7632);
            out[2].values[quarter] = __byte_perm(high01, high23, 0x5410);
            out[3].values[quarter] = __byte_perm(high01, high23, 0x7632);
        }
#pragma unroll
        for (int j = 0; j < 4; ++j)
            *reinterpret_cast<Vector<uint32_t, 4>*>(
                transposed + (first_column + word * 4 + j) * rows + first_row + row) = out[j];
    }
}

template <typename Body>
void with_format(Fp8 format, Body&& body) {
    if (format == Fp8::e4m3)
        body.template operator()<Fp8::e4m3>();
    else
        body.template operator()<Fp8::e5m2>();
}

}  // namespace

void fp8_scale(View scale, ConstView x, ConstView known, Fp8 format, Stream& stream) {
    check_fp8_scale(scale, x, known);
    Queue& queue = queue_of(stream);
    const int64_t n = x.elements();
    const float* chosen = known ? known.as<float>() : nullptr;
    auto* largest = static_cast<uint32_t*>(queue.scratch(sizeof(uint32_t)));
    queue.set_zero(largest, sizeof(uint32_t));
    const auto most = static_cast<unsigned>(queue.multiprocessors()) * 8;
    with_device_float(x.dtype, "fp8_scale", [&]<typename T>(T) {
        largest_magnitude<<<std::min(most, blocks_for(n, threads, 8)), threads, 0,
                            queue.stream()>>>(largest, x.as<T>(), chosen, n,
                                              is_aligned(x.data, 16));
    });
    CUDA_CHECK_LAUNCH("fp8_scale");
    set_scale<<<1, 1, 0, queue.stream()>>>(scale.as<float>(), largest, chosen, format);
    CUDA_CHECK_LAUNCH("fp8_scale");
}

void fp8_quantize(View y, View transposed, View largest, ConstView x, ConstView scale, Fp8 format,
                  Stream& stream) {
    check_fp8_quantize(y, transposed, largest, x, scale);
    const int64_t rows = x.dim(0), columns = x.dim(1);
    if (x.elements() == 0) return;
    CHECK(is_aligned(x.data, 16) && is_aligned(y.data, 16) && is_aligned(transposed.data, 16),
          "fp8_quantize: 16 bytes must divide the addresses");
    const dim3 grid(blocks_for(rows, tile), blocks_for(columns, tile));
    with_device_float(x.dtype, "fp8_quantize", [&]<typename T>(T) {
        with_format(format, [&]<Fp8 known>() {
            quantize<known><<<grid, threads, 0, queue_of(stream).stream()>>>(
                y ? y.as<uint8_t>() : nullptr, transposed ? transposed.as<uint8_t>() : nullptr,
                largest ? reinterpret_cast<uint32_t*>(largest.as<float>()) : nullptr, x.as<T>(),
                scale.as<float>(), rows, columns);
        });
    });
    CUDA_CHECK_LAUNCH("fp8_quantize");
}

PLINTH_CUDA_KERNEL(fp8_scale);
PLINTH_CUDA_KERNEL(fp8_quantize);

}  // namespace plinth::kernels::cuda
