// SPDX-License-Identifier: Apache-2.0
#include "core/io/hash.h"

#include <gtest/gtest.h>

namespace plinth::core::io {
namespace {

TEST(Xxh3, GoldenVectors) {
    // From the xxhsum program: printf abc | xxhsum -H3, -H2.
    EXPECT_EQ(to_hex(xxh3_64("abc")), "78af5f94892f3950");
    EXPECT_EQ(to_hex(xxh3_128("abc")), "06b05ab6733a618578af5f94892f3950");
    EXPECT_EQ(to_hex(xxh3_64("")), "2d06800538d394c2");
    EXPECT_EQ(to_hex(uint64_t{0xab}), "00000000000000ab");
    EXPECT_NE(xxh3_64("abc", 1), xxh3_64("abc"));
}

TEST(Xxh3, StreamEqualsWhole) {
    std::string text;
    for (int i = 0; i < 5000; ++i)
        text += static_cast<char>(i * 131 + i / 7);
    for (const uint64_t seed : {uint64_t{0}, uint64_t{7}})
        for (size_t length = 0; length < text.size(); length += 1 + length / 3) {
            const std::string_view part = std::string_view(text).substr(0, length);
            Xxh3 stream(seed);
            for (size_t at = 0, piece = 1; at < length; piece = piece * 3 + 1) {
                const auto next = part.substr(at, piece);
                stream.update(std::as_bytes(std::span(next)));
                at += next.size();
                stream.digest64();  // looking does not disturb
            }
            EXPECT_EQ(stream.digest64(), xxh3_64(part, seed)) << length;
            EXPECT_EQ(stream.digest128(), xxh3_128(part, seed)) << length;
        }
}

}  // namespace
}  // namespace plinth::core::io
