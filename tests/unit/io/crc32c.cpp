// SPDX-License-Identifier: Apache-2.0
#include "core/io/crc32c.h"

#include <gtest/gtest.h>

#include <random>
#include <string_view>
#include <vector>

namespace plinth::core::io {
namespace {

std::span<const std::byte> bytes(std::string_view text) {
    return std::as_bytes(std::span(text));
}

/// Bit by bit, straight from the definition.
uint32_t slow_crc(std::span<const std::byte> data) {
    uint32_t crc = 0xffffffffu;
    for (std::byte byte : data) {
        crc ^= static_cast<uint8_t>(byte);
        for (int bit = 0; bit < 8; ++bit)
            crc = (crc & 1u) ? (crc >> 1) ^ 0x82F63B78u : crc >> 1;
    }
    return ~crc;
}

TEST(Crc32c, GoldenVectors) {
    const std::vector<std::byte> zeros(32);
    for (const auto function : {crc32c, crc32c_by_tables}) {
        EXPECT_EQ(function(0, bytes("123456789")), 0xE3069283u);
        EXPECT_EQ(function(0, zeros), 0x8A9136AAu);
        EXPECT_EQ(function(0, {}), 0u);
    }
}

TEST(Crc32c, EveryLengthAlignmentAndCut) {
    std::mt19937 random(1);
    std::vector<std::byte> data(300);
    for (auto& byte : data)
        byte = static_cast<std::byte>(random());
    for (size_t offset = 0; offset < 9; ++offset)
        for (size_t length = 0; length + offset <= data.size(); length += 1 + length / 8) {
            const auto piece = std::span<const std::byte>(data).subspan(offset, length);
            const uint32_t expected = slow_crc(piece);
            EXPECT_EQ(crc32c(0, piece), expected) << offset << " " << length;
            EXPECT_EQ(crc32c_by_tables(0, piece), expected) << offset << " " << length;
            const size_t cut = length ? random() % length : 0;
            EXPECT_EQ(crc32c(crc32c(0, piece.first(cut)), piece.subspan(cut)), expected);
            EXPECT_EQ(crc32c_by_tables(crc32c(0, piece.first(cut)), piece.subspan(cut)), expected);
        }
}

TEST(Crc32c, EveryFlippedBitIsSeen) {
    std::vector<std::byte> data(64, std::byte{0x5a});
    const uint32_t sound = crc32c(0, data);
    for (size_t bit = 0; bit < data.size() * 8; ++bit) {
        data[bit / 8] ^= std::byte{1} << (bit % 8);
        EXPECT_NE(crc32c(0, data), sound) << bit;
        data[bit / 8] ^= std::byte{1} << (bit % 8);
    }
}

}  // namespace
}  // namespace plinth::core::io
