// SPDX-License-Identifier: Apache-2.0
#include "launch/config/text.h"

#include <gtest/gtest.h>

namespace plinth::launch {
namespace {

TEST(Text, Utf8) {
    for (const char* good :
         {"", "abc", "\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x98\x80", "\xed\x9f\xbf"})
        EXPECT_TRUE(is_utf8(good)) << good;
    // Lone continuation, overlong forms, a surrogate, too large, cut short.
    for (const char* bad :
         {"\x80", "\xc0\x80", "\xc1\xbf", "\xe0\x9f\xbf", "\xf0\x8f\xbf\xbf", "\xed\xa0\x80",
          "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xe2\x82", "\xff"})
        EXPECT_FALSE(is_utf8(bad));
}

TEST(Text, Bytes) {
    EXPECT_EQ(parse_bytes("0"), 0);
    EXPECT_EQ(parse_bytes("512"), 512);
    EXPECT_EQ(parse_bytes("512B"), 512);
    EXPECT_EQ(parse_bytes("512KiB"), 512 * 1024);
    EXPECT_EQ(parse_bytes("2GB"), 2000000000);
    EXPECT_EQ(parse_bytes("2GiB"), int64_t{2} << 30);
    EXPECT_EQ(parse_bytes("0.5TiB"), int64_t{1} << 39);
    for (const char* bad :
         {"", "MiB", "1 GiB", "1gib", "1.0001B", "9223372036854775807KiB", "1e30TB"})
        EXPECT_FALSE(parse_bytes(bad)) << bad;
    for (const int64_t bytes : {int64_t{0}, int64_t{1}, int64_t{1023}, int64_t{1024}, int64_t{3000},
                                int64_t{1} << 40, int64_t{-2048}, INT64_MAX, INT64_MIN})
        EXPECT_EQ(parse_bytes(format_bytes(bytes)), bytes);
    EXPECT_EQ(format_bytes(int64_t{512} << 20), "512MiB");
    EXPECT_EQ(format_bytes(2000000000), "2GB");
}

TEST(Text, Seconds) {
    EXPECT_EQ(parse_seconds("90"), 90);
    EXPECT_EQ(parse_seconds("90s"), 90);
    EXPECT_EQ(parse_seconds("2h30m"), 9000);
    EXPECT_EQ(parse_seconds("1d2h3m4s"), 93784);
    EXPECT_EQ(parse_seconds("500ms"), 0.5);
    EXPECT_EQ(parse_seconds("1.5h"), 5400);
    for (const char* bad : {"", "s", "1x", "1h1h", "1m1h", "1h30", "h1", "1..5s", "-"})
        EXPECT_FALSE(parse_seconds(bad)) << bad;
    for (const double seconds : {0.0, 1.0, 60.0, 61.0, 86400.0, 93784.0, 0.1, 1e-7, 1e17, 1234.5})
        EXPECT_EQ(parse_seconds(format_seconds(seconds)), seconds);
    EXPECT_EQ(format_seconds(9000), "2h30m");
}

TEST(Text, NearestIsNearOrNothing) {
    const std::vector<std::string> words{"hidden_size", "heads", "lr", "layers"};
    EXPECT_EQ(nearest("hiden_size", words), "hidden_size");
    EXPECT_EQ(nearest("haeds", words), "heads");
    EXPECT_EQ(nearest("layer", words), "layers");
    EXPECT_EQ(nearest("rl", words), "lr");
    EXPECT_EQ(nearest("xy", words), "");
    EXPECT_EQ(nearest("entirely_else", words), "");
    EXPECT_EQ(nearest(std::string(100000, 'a'), words), "");
}

}  // namespace
}  // namespace plinth::launch
