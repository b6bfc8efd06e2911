// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "kernels/simd.h"

namespace plinth {

/// Element types. The numbers are written into checkpoints: never renumber.
enum class DType : uint8_t {
    f32 = 1,
    bf16 = 2,
    f16 = 3,
    f64 = 4,
    i32 = 5,
    i64 = 6,
    u8 = 7,
    u16 = 8
};

size_t size_of(DType dtype);
std::string_view name_of(DType dtype);  ///< "f32", "bf16", ...

/// Brain float: the upper half of an fp32. Conversion rounds to nearest even and keeps NaN a NaN.
struct BFloat16 {
    uint16_t bits = 0;
    BFloat16() = default;
    PLINTH_HOST_DEVICE explicit BFloat16(float value) {
        const auto wide = std::bit_cast<uint32_t>(value);
        const uint32_t rounded = (wide + 0x7fffu + ((wide >> 16) & 1u)) >> 16;
        const bool is_nan = (wide & 0x7fffffffu) > 0x7f800000u;
        bits = static_cast<uint16_t>(is_nan ? ((wide >> 16) | 0x40u) : rounded);
    }
    PLINTH_HOST_DEVICE explicit operator float() const {
        return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
    }
};

template <typename T>
struct DTypeOf;
template <>
struct DTypeOf<float> {
    static constexpr DType value = DType::f32;
};
template <>
struct DTypeOf<double> {
    static constexpr DType value = DType::f64;
};
template <>
struct DTypeOf<BFloat16> {
    static constexpr DType value = DType::bf16;
};
template <>
struct DTypeOf<int32_t> {
    static constexpr DType value = DType::i32;
};
template <>
struct DTypeOf<int64_t> {
    static constexpr DType value = DType::i64;
};
template <>
struct DTypeOf<uint8_t> {
    static constexpr DType value = DType::u8;
};
template <>
struct DTypeOf<uint16_t> {
    static constexpr DType value = DType::u16;
};

}  // namespace plinth
