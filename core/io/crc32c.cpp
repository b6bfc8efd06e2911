// SPDX-License-Identifier: Apache-2.0
#include "core/io/crc32c.h"

#include <array>
#include <cstring>

#if defined(__x86_64__)
#include <nmmintrin.h>
#endif

namespace plinth::core::io {
namespace {

constexpr uint32_t kPolynomial = 0x82F63B78u;

/// tables[j][b] is the CRC of byte b followed by j zero bytes: eight look-ups serve eight bytes at
/// once.
constexpr std::array<std::array<uint32_t, 256>, 8> make_tables() {
    std::array<std::array<uint32_t, 256>, 8> tables{};
    for (uint32_t byte = 0; byte < 256; ++byte) {
        uint32_t crc = byte;
        for (int bit = 0; bit < 8; ++bit)
            crc = (crc >> 1) ^ ((crc & 1u) ? kPolynomial : 0u);
        tables[0][byte] = crc;
    }
    for (size_t j = 1; j < 8; ++j)
        for (size_t byte = 0; byte < 256; ++byte)
            tables[j][byte] = (tables[j - 1][byte] >> 8) ^ tables[0][tables[j - 1][byte] & 0xffu];
    return tables;
}
constexpr auto kTables = make_tables();

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) uint32_t crc32c_sse42(uint32_t crc,
                                                        std::span<const std::byte> bytes) {
    uint64_t state = ~crc;
    const std::byte* at = bytes.data();
    size_t left = bytes.size();
    for (; left >= 8; left -= 8, at += 8) {
        uint64_t word;
        std::memcpy(&word, at, 8);
        state = _mm_crc32_u64(state, word);
    }
    auto narrow = static_cast<uint32_t>(state);
    for (; left > 0; --left, ++at)
        narrow = _mm_crc32_u8(narrow, static_cast<uint8_t>(*at));
    return ~narrow;
}
#endif

using Function = uint32_t (*)(uint32_t, std::span<const std::byte>);

Function choose() {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("sse4.2")) return crc32c_sse42;
#endif
    return crc32c_by_tables;
}

}  // namespace

uint32_t crc32c(uint32_t crc, std::span<const std::byte> bytes) {
    static const Function function = choose();
    return function(crc, bytes);
}

uint32_t crc32c_by_tables(uint32_t crc, std::span<const std::byte> bytes) {
    uint32_t state = ~crc;
    const std::byte* at = bytes.data();
    size_t left = bytes.size();
    const auto byte = [&](size_t i) { return static_cast<uint8_t>(at[i]); };
    for (; left >= 8; left -= 8, at += 8) {
        state =
            kTables[7][byte(0) ^ (state & 0xffu)] ^ kTables[6][byte(1) ^ ((state >> 8) & 0xffu)] ^
            kTables[5][byte(2) ^ ((state >> 16) & 0xffu)] ^ kTables[4][byte(3) ^ (state >> 24)] ^
            kTables[3][byte(4)] ^ kTables[2][byte(5)] ^ kTables[1][byte(6)] ^ kTables[0][byte(7)];
    }
    for (; left > 0; --left, ++at)
        state = (state >> 8) ^ kTables[0][byte(0) ^ (state & 0xffu)];
    return ~state;
}

}  // namespace plinth::core::io
