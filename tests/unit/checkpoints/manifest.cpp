// SPDX-License-Identifier: Apache-2.0
#include "checkpoints/manifest.h"

#include <gtest/gtest.h>

#include <limits>

#include "tests/support/expect_error.h"
#include "tests/unit/checkpoints/state.h"

namespace plinth::checkpoints::test {
namespace {

using plinth::test::expect_error;

Root root() {
    Root result{
        small_manifest(7), {{1000, 200, 0xdeadbeef}}, {{"vocab.json", 8, std::string(32, 'a')}}};
    result.manifest.files.clear();  // the bytes are not in the message
    result.manifest.run_id = run_a;
    result.manifest.step = 7;
    result.manifest.attempt = 2;
    result.manifest.tensors = {{"a", DType::f32, {3, 4}}, {"b", DType::bf16, {}}};
    return result;
}

Piece piece(const std::string& name, const Shape& shape, uint64_t offset) {
    Piece result{name, DType::f32, core::Shard::whole(shape), offset, {}};
    result.crc32c.assign(blocks_of(result.bytes()), 0x12345678);
    return result;
}

Index index_of(std::vector<Piece> pieces) {
    return {4, std::move(pieces)};
}

TEST(Manifest, DecodesWhatItEncodes) {
    EXPECT_EQ(decode_root(encode(root()), "x"), root());
    const Index index = index_of({piece("a", {3, 4}, 64), piece("b", {300000}, 128)});
    EXPECT_EQ(index.pieces[1].crc32c.size(), 2u);
    EXPECT_EQ(decode_index(encode(index), 128 + padded(1200000) + 64, "x"), index);
}

TEST(Manifest, RefusesWhatDoesNotAddUp) {
    const auto refuse = [](const Index& index, uint64_t size, const std::string& part) {
        expect_error(
            ErrorKind::checkpoint, [&] { decode_index(encode(index), size, "x.index"); }, "x.index",
            part);
    };
    const Index good = index_of({piece("a", {3, 4}, 64)});
    decode_index(encode(good), 192, "x");
    refuse(good, 191, "fill 192 bytes of a data file with 191");
    refuse(good, 256, "256");
    refuse(good, 100, "100");
    refuse(index_of({piece("a", {3, 4}, 128)}), 256, "does not follow");
    refuse(index_of({piece("", {3, 4}, 64)}), 192, "name");
    refuse(index_of({piece("a b", {3, 4}, 64)}), 192, "name");
    Index bad = good;
    bad.pieces[0].crc32c.push_back(1);
    refuse(bad, 192, "2 checksums and needs 1");
    bad = good;
    bad.pieces[0].shard.end = 13;
    refuse(bad, 192, "outside");
    bad = good;
    bad.pieces[0].shard.end = 0;
    refuse(bad, 192, "a piece of tensor a");
    bad = good;
    bad.pieces[0].shard.offset = {1, 0};
    refuse(bad, 192, "outside");
    bad = good;
    bad.pieces[0].shard.local_shape = {12};
    refuse(bad, 192, "outside");
    bad = good;
    bad.pieces[0].dtype = static_cast<DType>(99);
    // The size of an unknown dtype is not asked for: encoding does not need it.
    refuse(bad, 192, "unknown dtype 99");
}

TEST(Manifest, SizesThatOverflowAreRefused) {
    constexpr int64_t huge = std::numeric_limits<int64_t>::max();
    for (const Shape& shape : {Shape{huge}, Shape{huge, huge}, Shape{1 << 30, 1 << 30, 8},
                               Shape{huge, 0}, Shape{0, huge, huge}, Shape{huge / 8 + 1}}) {
        Root claims = root();
        claims.manifest.tensors = {{"a", DType::u8, shape}};
        expect_error(
            ErrorKind::checkpoint, [&] { decode_root(encode(claims), "x"); },
            "x: ", "tensor a is too large");
    }
    // A shape that fits but that no file could hold costs no memory.
    Index claims = index_of({piece("a", {4}, 64)});
    claims.pieces[0].shard = core::Shard::whole({huge / 8});
    expect_error(
        ErrorKind::checkpoint, [&] { decode_index(encode(claims), 192, "x"); }, "inside the file");
}

TEST(Manifest, RefusesRepeatedAndUnsortedNames) {
    Root bad = root();
    bad.manifest.tensors[1].name = "a";
    expect_error(
        ErrorKind::checkpoint, [&] { decode_root(encode(bad), "x"); }, "tensor a");
    std::string twice = encode(root()) + encode(root());  // protobuf concatenates repeated fields
    expect_error(
        ErrorKind::checkpoint, [&] { decode_root(twice, "x"); }, "listed twice");
    bad = root();
    bad.side_files[0].name = "../vocab.json";
    expect_error(
        ErrorKind::checkpoint, [&] { decode_root(encode(bad), "x"); }, "../vocab.json");
    bad = root();
    bad.manifest.run_id = "short";
    expect_error(
        ErrorKind::checkpoint, [&] { decode_root(encode(bad), "x"); }, "short");
}

TEST(Manifest, RefusesOtherBytesAndNewerFormats) {
    expect_error(
        ErrorKind::checkpoint, [] { decode_root("\xff\xff", "x"); }, "x: not a valid");
    expect_error(
        ErrorKind::checkpoint, [] { decode_root("", "x"); }, "format 0");
    const std::string newer("\x08\x02", 2);  // field 1, the format version, is 2
    EXPECT_THROW(decode_root(newer, "x"), Refused);
    EXPECT_THROW(decode_index(newer, 128, "x"), Refused);
}

TEST(Manifest, FramesAreOfOneFile) {
    const Origin origin{run_a, 7, 2};
    const std::string file = frame("message", FileKind::index, 3, origin);
    EXPECT_EQ(unframe(file, FileKind::index, 3, origin, "x"), "message");
    const auto refuse = [&](const std::string& bytes, FileKind kind, uint64_t number,
                            const Origin& wanted) {
        expect_error(
            ErrorKind::checkpoint, [&] { unframe(bytes, kind, number, wanted, "x"); }, "x: ");
    };
    refuse(file, FileKind::manifest, 3, origin);
    refuse(file, FileKind::index, 4, origin);
    refuse(file, FileKind::index, 3, {run_b, 7, 2});
    for (size_t size = 0; size < file.size(); ++size)
        refuse(file.substr(0, size), FileKind::index, 3, origin);
}

}  // namespace
}  // namespace plinth::checkpoints::test
