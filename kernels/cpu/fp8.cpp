// SPDX-License-Identifier: Apache-2.0
// The reference of the device's FP8 path: the CPU has no 8-bit matrix units. Every 8-bit number is
// a bf16 number too, and the product of two is exact in fp32, so bf16's product does it.
#include "kernels/fp8.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <memory>

#include "kernels/cpu/elementwise.h"
#include "kernels/matmul.h"

namespace plinth::kernels::cpu {

namespace {

constexpr int64_t elements_per_chunk = 16384;
constexpr int64_t rows_per_chunk = 16;  // a chunk writes whole cache lines of the transposed copy

/// Bits of |x|, which as integers stand in the same order, NaN above all.
template <typename T>
uint32_t magnitude_of(T x) {
    return std::bit_cast<uint32_t>(static_cast<float>(x)) & 0x7fffffffu;
}

/// The order of the chunks does not matter: a maximum has none.
void raise(std::atomic<uint32_t>& largest, uint32_t found) {
    uint32_t before = largest.load();
    while (before < found && !largest.compare_exchange_weak(before, found)) {
    }
}

using Matrix = std::unique_ptr<BFloat16[]>;

Matrix decoded(ConstView x, Fp8 format, Stream& stream) {
    std::array<BFloat16, 256> values;
    for (int code = 0; code < 256; ++code)
        values[static_cast<size_t>(code)] = BFloat16(fp8_value(static_cast<uint8_t>(code), format));
    auto all = std::make_unique_for_overwrite<BFloat16[]>(static_cast<size_t>(x.elements()));
    parallel_for(stream, x.elements(), elements_per_chunk, [&](int64_t begin, int64_t end) {
        const auto* bits = x.as<uint8_t>();
        for (int64_t i = begin; i < end; ++i)
            all[static_cast<size_t>(i)] = values[bits[i]];
    });
    return all;
}

}  // namespace

void fp8_scale(View scale, ConstView x, ConstView known, Fp8 format, Stream& stream) {
    check_fp8_scale(scale, x, known);
    if (known && *known.as<float>() > 0.0f) {
        *scale.as<float>() = *known.as<float>();
        return;
    }
    std::atomic<uint32_t> largest{0};
    with_float_type(x.dtype, "fp8_scale", [&]<typename T>(T) {
        parallel_for(stream, x.elements(), elements_per_chunk, [&](int64_t begin, int64_t end) {
            const T* data = x.as<T>();
            uint32_t found = 0;
            for (int64_t i = begin; i < end; ++i)
                found = std::max(found, magnitude_of(data[i]));
            raise(largest, found);
        });
    });
    *scale.as<float>() = fp8_scale_for(largest.load(), format);
}

void fp8_quantize(View y, View transposed, View largest, ConstView x, ConstView scale, Fp8 format,
                  Stream& stream) {
    check_fp8_quantize(y, transposed, largest, x, scale);
    const int64_t rows = x.dim(0), columns = x.dim(1);
    const float reciprocal = 1.0f / *scale.as<float>();
    std::atomic<uint32_t> most{0};
    with_float_type(x.dtype, "fp8_quantize", [&]<typename T>(T) {
        parallel_for(stream, rows, rows_per_chunk, [&](int64_t begin, int64_t end) {
            uint32_t found = 0;
            for (int64_t r = begin; r < end; ++r)
                for (int64_t c = 0; c < columns; ++c) {
                    const T value = x.as<T>()[r * columns + c];
                    found = std::max(found, magnitude_of(value));
                    const uint8_t bits = fp8_bits(static_cast<float>(value) * reciprocal, format);
                    if (y) y.as<uint8_t>()[r * columns + c] = bits;
                    if (transposed) transposed.as<uint8_t>()[c * rows + r] = bits;
                }
            raise(most, found);
        });
    });
    if (!largest) return;
    auto& known = *largest.as<float>();
    known = std::bit_cast<float>(std::max(std::bit_cast<uint32_t>(known), most.load()));
}

void fp8_matmul(View c, ConstView a, ConstView b, ConstView bias, ConstView scale_a,
                ConstView scale_b, Fp8Matmul options, Stream& stream) {
    check_fp8_matmul(c, a, b, bias, scale_a, scale_b, options);
    const int64_t m = c.dim(0), n = c.dim(1);
    const Matrix left = decoded(a, options.a, stream), right = decoded(b, options.b, stream);
    const auto product = std::make_unique_for_overwrite<float[]>(static_cast<size_t>(m * n));
    matmul(View(product.get(), DType::f32, {m, n}), ConstView(left.get(), DType::bf16, a.shape),
           ConstView(right.get(), DType::bf16, b.shape), {}, {.transpose_b = true}, stream);
    const float scale = *scale_a.as<float>() * *scale_b.as<float>();
    with_float_type(c.dtype, "fp8_matmul", [&]<typename T>(T) {
        parallel_for(stream, m, row_grain(n), [&](int64_t begin, int64_t end) {
            for (int64_t r = begin; r < end; ++r)
                for (int64_t j = 0; j < n; ++j) {
                    T& out = c.as<T>()[r * c.stride(0) + j];
                    const float added = options.accumulate ? static_cast<float>(out)
                                        : bias             ? bias.as<float>()[j]
                                                           : 0.0f;
                    out = T(added + scale * product[static_cast<size_t>(r * n + j)]);
                }
        });
    });
}

}  // namespace plinth::kernels::cpu
