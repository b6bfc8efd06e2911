// SPDX-License-Identifier: Apache-2.0
// The reference of the device's FP8 path: correct, and not made to be fast.
#include "kernels/fp8.h"

#include <algorithm>
#include <atomic>
#include <vector>

#include "kernels/cpu/elementwise.h"
#include "kernels/matmul.h"

namespace plinth::kernels::cpu {

namespace {

constexpr int64_t elements_per_chunk = 16384;
constexpr int64_t rows_per_chunk = 16;

std::vector<float> decoded(ConstView x, Fp8 format) {
    const auto* bits = x.as<uint8_t>();
    std::vector<float> values(static_cast<size_t>(x.elements()));
    for (size_t i = 0; i < values.size(); ++i)
        values[i] = fp8_value(bits[i], format);
    return values;
}

}  // namespace

void fp8_scale(View scale, ConstView x, Fp8 format, Stream& stream) {
    CHECK(scale.elements() == 1 && x.is_contiguous(), "fp8_scale: {} of {}", scale.shape.text(),
          x.shape.text());
    std::atomic<uint32_t> largest{0};
    with_float_type(x.dtype, "fp8", [&]<typename T>(T) {
        parallel_for(stream, x.elements(), elements_per_chunk, [&](int64_t begin, int64_t end) {
            const T* data = x.as<T>();
            uint32_t found = 0;
            for (int64_t i = begin; i < end; ++i)
                found = std::max(
                    found, std::bit_cast<uint32_t>(static_cast<float>(data[i])) & 0x7fffffffu);
            uint32_t before = largest.load();
            while (before < found && !largest.compare_exchange_weak(before, found)) {
            }
        });
    });
    *scale.as<float>() = fp8_scale_for(largest.load(), format);
}

void fp8_quantize(View y, View transposed, ConstView x, ConstView scale, Fp8 format,
                  Stream& stream) {
    check_fp8_quantize(y, transposed, x, scale);
    const int64_t rows = x.dim(0), columns = x.dim(1);
    const float reciprocal = 1.0f / *scale.as<float>();
    with_float_type(x.dtype, "fp8", [&]<typename T>(T) {
        parallel_for(stream, rows, rows_per_chunk, [&](int64_t begin, int64_t end) {
            for (int64_t r = begin; r < end; ++r)
                for (int64_t c = 0; c < columns; ++c) {
                    const float value = static_cast<float>(x.as<T>()[r * columns + c]);
                    const uint8_t bits = fp8_bits(value * reciprocal, format);
                    if (y) y.as<uint8_t>()[r * columns + c] = bits;
                    if (transposed) transposed.as<uint8_t>()[c * rows + r] = bits;
                }
        });
    });
}

void fp8_matmul(View c, ConstView a, ConstView b, ConstView scale_a, ConstView scale_b,
                Fp8Matmul options, Stream& stream) {
    check_fp8_matmul(c, a, b, scale_a, scale_b, options);
    const int64_t m = c.dim(0), n = c.dim(1);
    const std::vector<float> left = decoded(a, options.a), right = decoded(b, options.b);
    std::vector<float> product(static_cast<size_t>(m * n));
    matmul(View(product.data(), DType::f32, {m, n}), ConstView(left.data(), DType::f32, a.shape),
           ConstView(right.data(), DType::f32, b.shape), {}, {.transpose_b = true}, stream);
    const float scale = *scale_a.as<float>() * *scale_b.as<float>();
    with_float_type(c.dtype, "fp8_matmul", [&]<typename T>(T) {
        for (int64_t r = 0; r < m; ++r)
            for (int64_t j = 0; j < n; ++j) {
                T& out = c.as<T>()[r * c.stride(0) + j];
                const float before = options.accumulate ? static_cast<float>(out) : 0.0f;
                out = T(before + scale * product[static_cast<size_t>(r * n + j)]);
            }
    });
}

}  // namespace plinth::kernels::cpu
