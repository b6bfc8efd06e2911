// SPDX-License-Identifier: Apache-2.0
#include "core/io/compressed.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "tests/support/compressed_text.h"
#include "tests/support/expect_error.h"
#include "tests/support/memory_file.h"

namespace plinth::core::io {
namespace {

using test::compress_gzip;
using test::compress_zstd;
using test::expect_error;
using test::MemoryFile;

/// Text that compresses somewhat.
std::string sample(size_t size, uint32_t seed) {
    std::mt19937 random(seed);
    std::string text;
    while (text.size() < size)
        text += fmt::format("{} line {}\n", random() % 1000, random());
    text.resize(size);
    return text;
}

std::string read_whole(std::string content, size_t step = 1000) {
    const auto reader = open_bytes(std::make_unique<MemoryFile>(std::move(content), "file"));
    std::string out;
    std::string piece(step, '\0');
    while (const size_t count = reader->read(std::as_writable_bytes(std::span(piece))))
        out.append(piece, 0, count);
    EXPECT_EQ(reader->read(std::as_writable_bytes(std::span(piece))), 0u);
    return out;
}

std::vector<std::string> lines(std::string content) {
    LineReader reader(std::make_unique<MemoryFile>(std::move(content), "file"));
    std::vector<std::string> all;
    std::string_view line;
    while (reader.next(line)) {
        all.emplace_back(line);
        EXPECT_EQ(reader.line_number(), all.size());
    }
    return all;
}

TEST(Compressed, DetectsByContent) {
    EXPECT_EQ(detect_compression(MemoryFile(compress_gzip("x"))), Compression::gzip);
    EXPECT_EQ(detect_compression(MemoryFile(compress_zstd("x"))), Compression::zstd);
    EXPECT_EQ(detect_compression(MemoryFile("text")), Compression::none);
    EXPECT_EQ(detect_compression(MemoryFile("\x1f")), Compression::none);
    EXPECT_EQ(detect_compression(MemoryFile("")), Compression::none);
}

TEST(Compressed, ReadsBackEveryKind) {
    for (const size_t size : {size_t{0}, size_t{1}, size_t{70000}, size_t{3000000}}) {
        const std::string text = sample(size, 1);
        for (const size_t step : {size_t{1} << 20, size_t{997}}) {
            EXPECT_EQ(read_whole(text, step), text);
            EXPECT_EQ(read_whole(compress_gzip(text), step), text);
            EXPECT_EQ(read_whole(compress_zstd(text), step), text);
        }
    }
}

TEST(Compressed, ManyMembersAndFramesAreOneStream) {
    const std::string a = sample(100000, 1), b = sample(10, 2), c = sample(400000, 3);
    EXPECT_EQ(
        read_whole(compress_gzip(a) + compress_gzip("") + compress_gzip(b) + compress_gzip(c)),
        a + b + c);
    const std::string skippable("\x50\x2a\x4d\x18\x03\x00\x00\x00xyz", 11);
    EXPECT_EQ(read_whole(skippable + compress_zstd(a) + compress_zstd("") + skippable +
                         compress_zstd(b) + compress_zstd(c)),
              a + b + c);
}

TEST(Compressed, EveryTruncationIsFoundAndNamed) {
    const std::string text = sample(2000, 4);
    for (const std::string& whole : {compress_gzip(text), compress_zstd(text)})
        for (size_t size = 4; size < whole.size(); size += 7)
            expect_error(
                ErrorKind::data, [&] { read_whole(whole.substr(0, size)); },
                fmt::format("file: at offset {}:", size), "cut off");
}

TEST(Compressed, DamageIsFoundAndNamed) {
    const std::string text = sample(2000, 5);
    std::string gzip = compress_gzip(text);
    gzip[gzip.size() / 2] ^= 0x10;  // gzip carries a checksum of the content
    expect_error(
        ErrorKind::data, [&] { read_whole(gzip); }, "file: at offset", "damaged");
    std::string zstd = compress_zstd(text) + "garbage";
    expect_error(
        ErrorKind::data, [&] { read_whole(zstd); }, "file: at offset", "damaged");
    expect_error(
        ErrorKind::data, [&] { read_whole(compress_gzip(text) + "garbage"); }, "file: at offset",
        "damaged");
}

TEST(LineReader, LinesOfAnyKind) {
    using Lines = std::vector<std::string>;
    EXPECT_EQ(lines(""), Lines{});
    EXPECT_EQ(lines("a"), Lines{"a"});
    EXPECT_EQ(lines("a\n"), Lines{"a"});
    EXPECT_EQ(lines("\n\na\r\nb\rc\n"), (Lines{"", "", "a", "b\rc"}));
    EXPECT_EQ(lines("\xef\xbb\xbf"
                    "a\n\xef\xbb\xbf"
                    "b"),
              (Lines{"a",
                     "\xef\xbb\xbf"
                     "b"}));
    EXPECT_EQ(lines("\xef\xbb\xbf"), Lines{});
}

TEST(LineReader, LongLinesInCompressedFiles) {
    const std::vector<std::string> expected = {std::string(3000000, 'x'), "y",
                                               std::string(900000, 'z')};
    const std::string text = expected[0] + "\n" + expected[1] + "\r\n" + expected[2];
    EXPECT_EQ(lines(text), expected);
    EXPECT_EQ(lines(compress_gzip(text)), expected);
    EXPECT_EQ(lines(compress_zstd(text.substr(0, 7)) + compress_zstd(text.substr(7))), expected);
}

TEST(LineReader, AgreesWithASplitOfTheWhole) {
    const std::string text = sample(1500000, 6);
    std::string joined;
    for (const std::string& line : lines(compress_zstd(text)))
        joined += line + "\n";
    EXPECT_EQ(joined, text.back() == '\n' ? text : text + "\n");
}

}  // namespace
}  // namespace plinth::core::io
