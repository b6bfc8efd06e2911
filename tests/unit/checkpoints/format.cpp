// SPDX-License-Identifier: Apache-2.0
#include "checkpoints/format.h"

#include <gtest/gtest.h>

#include "checkpoints/checkpoint.h"
#include "core/io/crc32c.h"
#include "tests/support/expect_error.h"
#include "tests/unit/checkpoints/state.h"

namespace plinth::checkpoints::test {
namespace {

using plinth::test::expect_error;

std::string hex(std::span<const std::byte> bytes) {
    std::string text;
    for (const std::byte byte : bytes)
        text += fmt::format("{:02x}", static_cast<unsigned>(byte));
    return text;
}

const Superblock block{FileKind::index, 3, 1234, {run_a, 77, 2}};

TEST(Format, SuperblockIsByteExact) {
    // Written by hand from docs/checkpoint_format.md; the last word by a bitwise CRC-32C in Python.
    EXPECT_EQ(hex(encode(block, Place::begin)),
              "504c494e5448434b"
              "01000000"
              "02000000"
              "00000000"
              "03000000"
              "d204000000000000"
              "00112233445566778899aabbccddeeff"
              "4d00000000000000"
              "02000000"
              "4829df48");
    EXPECT_EQ(hex(encode(block, Place::end)).substr(112),
              "02000000"
              "770d8e28");
}

TEST(Format, SuperblockNamesWhatIsWrong) {
    const auto check = [](auto bytes, const Superblock& wanted, Place place) {
        check_superblock(bytes, place, wanted, "some/file");
    };
    const auto good = encode(block, Place::begin);
    check(good, block, Place::begin);
    for (size_t bit = 0; bit < 8 * good.size(); ++bit) {
        auto bad = good;
        bad[bit / 8] ^= static_cast<std::byte>(1 << bit % 8);
        expect_error(
            ErrorKind::checkpoint, [&] { check(bad, block, Place::begin); }, "some/file");
    }
    expect_error(
        ErrorKind::checkpoint, [&] { check(good, block, Place::end); }, "another file");
    for (auto change :
         {+[](Superblock& b) { b.kind = FileKind::data; },
          +[](Superblock& b) { b.file_number = 4; }, +[](Superblock& b) { b.file_size = 1235; }}) {
        Superblock other = block;
        change(other);
        expect_error(
            ErrorKind::checkpoint, [&] { check(good, other, Place::begin); }, "another file");
    }
    for (const Origin& origin :
         {Origin{run_b, 77, 2}, Origin{run_a, 78, 2}, Origin{run_a, 77, 3}}) {
        Superblock other = block;
        other.origin = origin;
        expect_error(
            ErrorKind::checkpoint, [&] { check(good, other, Place::begin); }, "belongs to",
            "step 77, attempt 2");
    }
}

TEST(Format, ANewerFormatIsRefusedByName) {
    auto bytes = encode(block, Place::begin);
    bytes[8] = std::byte{9};
    const uint32_t crc = core::io::crc32c(0, std::span(bytes).first(60));
    std::memcpy(&bytes[60], &crc, 4);
    EXPECT_THROW(check_superblock(bytes, Place::begin, block, "x"), Refused);
    expect_error(
        ErrorKind::checkpoint, [&] { check_superblock(bytes, Place::begin, block, "x"); },
        "checkpoint format 9", "format 1");
}

const Commit commit{{run_a, 77, 2}, 4321, "0123456789abcdef0123456789abcdef"};

TEST(Format, CommitIsByteExact) {
    const std::string expected =
        "plinth checkpoint 1\n"
        "run 00112233445566778899aabbccddeeff\n"
        "step 77\n"
        "attempt 2\n"
        "manifest 4321 0123456789abcdef0123456789abcdef\n"
        "crc32c 5635b7c9\n";
    EXPECT_EQ(render(commit), expected);
    EXPECT_EQ(parse_commit(expected, "COMMIT"), commit);
}

TEST(Format, CommitRefusesEveryOtherText) {
    const std::string good = render(commit);
    for (size_t size = 0; size < good.size(); ++size)
        expect_error(
            ErrorKind::checkpoint, [&] { parse_commit(good.substr(0, size), "f/COMMIT"); },
            "f/COMMIT");
    expect_error(
        ErrorKind::checkpoint, [&] { parse_commit(good + "\n", "f/COMMIT"); }, "f/COMMIT");
    const auto sealed = [](std::string text) {
        const uint32_t crc = core::io::crc32c(0, std::as_bytes(std::span(text)));
        return text + fmt::format("crc32c {:08x}\n", crc);
    };
    std::string body = good.substr(0, good.size() - 16);
    EXPECT_EQ(parse_commit(sealed(body), "COMMIT"), commit);
    std::string spaced = body;
    spaced.insert(spaced.find("77"), "0");  // a number as `render` does not write it
    expect_error(
        ErrorKind::checkpoint, [&] { parse_commit(sealed(spaced), "f/COMMIT"); }, "f/COMMIT");
    std::string newer = body;
    newer.replace(0, 19, "plinth checkpoint 2");
    EXPECT_THROW(parse_commit(sealed(newer), "COMMIT"), Refused);
}

TEST(Format, FolderNames) {
    EXPECT_EQ(folder_name(100, 1), "step-000000000100.attempt-0001");
    for (const FolderName name : {FolderName{0, 1}, {100, 1}, {123456789012345, 12345}})
        EXPECT_EQ(parse_folder_name(folder_name(name.step, name.attempt)), name);
    for (const char* name : {"", "step-", "step-1.attempt-1", "step-000000000100.attempt-001",
                             "step-000000000100.attempt-0001x", "step--00000000100.attempt-0001",
                             "step-99999999999999999999999.attempt-0001", "tmp", ".."})
        EXPECT_FALSE(parse_folder_name(name)) << name;
    EXPECT_EQ(parent_of("a/b"), "a");
    EXPECT_EQ(parent_of("a"), ".");
    EXPECT_EQ(parent_of("/a"), "/");
}

TEST(Format, SideFileNamesCannotLeaveTheirFolder) {
    for (const char* name : {"vocab.json", "a", "A_b-c.0"})
        check_side_name(name, "x");
    for (const std::string& name :
         {std::string(), std::string(".."), std::string(".hidden"), std::string("a/b"),
          std::string("/etc/passwd"), std::string("a\0b", 3), std::string(101, 'a'),
          std::string("a\\b"), std::string("\xc3\xa9")})
        expect_error(
            ErrorKind::checkpoint, [&] { check_side_name(name, "x"); }, "x:");
}

TEST(Format, RunIds) {
    const std::string id = new_run_id();
    check_run_id(id, "x");
    EXPECT_NE(id, new_run_id());
    for (const char* bad : {"", "0123", "00112233445566778899AABBCCDDEEFF"})
        expect_error(
            ErrorKind::checkpoint, [&] { check_run_id(bad, "here"); }, "here");
}

}  // namespace
}  // namespace plinth::checkpoints::test
