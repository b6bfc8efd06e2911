// SPDX-License-Identifier: Apache-2.0
#include "core/data/token_shard.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>

#include "tests/support/expect_error.h"
#include "tests/support/faulty_files.h"
#include "tests/support/memory_file.h"
#include "tests/support/temporary_folder.h"

namespace plinth::core::data {
namespace {

using test::expect_error;
using test::FaultyFiles;
using test::MemoryFile;
using test::TemporaryFolder;

std::string hex(const std::string& bytes) {
    std::string out;
    for (const char byte : bytes)
        out += fmt::format("{:02x}", static_cast<uint8_t>(byte));
    return out;
}

// The layout of Megatron-LM, byte by byte: sequences [1,2,3], [4,5], [65499] in documents {0,1},
// {2}.
constexpr const char* kGoldenBin = "01000200030004000500dbff";
constexpr const char* kGoldenIdx =
    "4d4d494449445800000100000000000000"
    "08"
    "03000000000000000300000000000000"
    "030000000200000001000000"
    "000000000000000006000000000000000a00000000000000"
    "000000000000000002000000000000000300000000000000";

ShardEntry write_golden(io::FileSystem& files, const std::string& path) {
    TokenShardWriter writer(files, path, DType::u16);
    writer.add_sequence(std::vector<int32_t>{1, 2, 3});
    writer.add_sequence(std::vector<int32_t>{4, 5});
    writer.end_document();
    writer.add_document(std::vector<int32_t>{65499});
    return writer.finish();
}

TEST(TokenShardWriter, GoldenBytes) {
    TemporaryFolder folder;
    const ShardEntry entry = write_golden(io::posix(), folder / "s");
    const std::string bin = io::read_all(io::posix(), folder / "s.bin");
    const std::string idx = io::read_all(io::posix(), folder / "s.idx");
    EXPECT_EQ(hex(bin), kGoldenBin);
    EXPECT_EQ(hex(idx), kGoldenIdx);
    EXPECT_EQ(idx.size(), 94u);
    EXPECT_EQ(entry.tokens, 6);
    EXPECT_EQ(entry.documents, 2);
    EXPECT_EQ(entry.bin_xxh3, io::to_hex(io::xxh3_64(bin)));
    EXPECT_EQ(entry.idx_xxh3, io::to_hex(io::xxh3_64(idx)));
    EXPECT_EQ(io::posix().list(folder.path()), (std::vector<std::string>{"s.bin", "s.idx"}));
}

TEST(TokenShardWriter, WideTokensAndEmptyDocuments) {
    TemporaryFolder folder;
    TokenShardWriter writer(io::posix(), folder / "s", DType::i32);
    writer.add_document({});
    writer.add_document(std::vector<int32_t>{100000});
    writer.add_document({});
    writer.finish();
    EXPECT_EQ(hex(io::read_all(io::posix(), folder / "s.bin")), "a0860100");
    EXPECT_EQ(hex(io::read_all(io::posix(), folder / "s.idx")),
              "4d4d494449445800000100000000000000"
              "04"
              "01000000000000000400000000000000"
              "01000000"
              "0000000000000000"
              "0000000000000000000000000000000001000000000000000100000000000000");
    const TokenShard shard(io::posix(), folder / "s");
    EXPECT_EQ(shard.documents(), 3);
    const auto found = shard.documents_in(0, 1);
    ASSERT_EQ(found.size(), 1u);
    EXPECT_EQ(found[0].document, 1);
}

TEST(TokenShardWriter, DtypeFollowsTheVocabulary) {
    EXPECT_EQ(token_dtype(256), DType::u16);
    EXPECT_EQ(token_dtype(65499), DType::u16);
    EXPECT_EQ(token_dtype(65500), DType::i32);
    TemporaryFolder folder;
    TokenShardWriter writer(io::posix(), folder / "s", DType::u16);
    for (const int32_t bad : {-1, 65536})
        expect_error(
            ErrorKind::data, [&] { writer.add_document(std::vector<int32_t>{bad}); },
            folder / "s.bin", std::to_string(bad), "u16");
}

TEST(TokenShardWriter, EveryFaultLeavesNothingThatLooksWhole) {
    TemporaryFolder folder;
    FaultyFiles counter(io::posix());
    write_golden(counter, folder / "s");
    ASSERT_GT(counter.operations(), 15);
    for (const bool sticky : {false, true})
        for (int64_t k = 0; k < counter.operations(); ++k) {
            io::posix().remove_all(folder / "d");
            io::posix().make_directories(folder / "d");
            write_golden(io::posix(), folder / "d/s");  // an older shard of the same name
            FaultyFiles faulty(io::posix(),
                               {.operation = k, .sticky = sticky, .short_write = true});
            try {
                write_golden(faulty, folder / "d/s");
            } catch (const Error& error) {
                EXPECT_EQ(static_cast<int>(error.kind()), static_cast<int>(ErrorKind::io));
            }
            EXPECT_TRUE(faulty.failed() || k >= counter.operations() - 1);
            if (io::posix().exists(folder / "d/s.idx")) {
                EXPECT_NO_THROW(TokenShard(io::posix(), folder / "d/s").verify(65500)) << k;
            }
        }
}

struct Corpus {
    std::vector<int32_t> tokens;
    std::vector<int32_t> document_of;  ///< of each token
    int64_t documents = 0;
};

/// Documents of wildly different lengths and numbers of sequences.
Corpus write_corpus(const std::string& path, DType dtype, int documents, uint32_t seed) {
    std::mt19937 random(seed);
    TokenShardWriter writer(io::posix(), path, dtype);
    Corpus corpus;
    for (int document = 0; document < documents; ++document) {
        const uint32_t kind = random() % 10;
        const int sequences = kind == 0 ? 0 : kind == 1 ? 2 + static_cast<int>(random() % 400) : 1;
        for (int s = 0; s < sequences; ++s) {
            std::vector<int32_t> tokens(random() % (kind == 2 ? 3000 : 20));
            for (int32_t& token : tokens)
                token = static_cast<int32_t>(random() % 65000);
            writer.add_sequence(tokens);
            corpus.tokens.insert(corpus.tokens.end(), tokens.begin(), tokens.end());
            corpus.document_of.resize(corpus.tokens.size(), document);
        }
        writer.end_document();
    }
    writer.finish();
    corpus.documents = documents;
    return corpus;
}

TEST(TokenShard, ReadsBackTokensAndDocuments) {
    TemporaryFolder folder;
    for (const DType dtype : {DType::u16, DType::i32}) {
        const Corpus corpus = write_corpus(folder / "s", dtype, 3000, 11);
        const TokenShard shard(io::posix(), folder / "s");
        EXPECT_EQ(shard.dtype(), dtype);
        EXPECT_EQ(shard.tokens(), static_cast<int64_t>(corpus.tokens.size()));
        EXPECT_EQ(shard.documents(), corpus.documents);
        shard.verify(65000);
        std::vector<int32_t> all(corpus.tokens.size());
        shard.read_tokens(0, all);
        EXPECT_EQ(all, corpus.tokens);

        std::mt19937 random(5);
        for (int trial = 0; trial < 500; ++trial) {
            const auto begin = static_cast<int64_t>(random() % all.size());
            const int64_t end = std::min<int64_t>(shard.tokens(), begin + 1 + random() % 5000);
            std::vector<DocumentStart> expected;
            for (int64_t t = begin; t < end; ++t) {
                const int32_t document = corpus.document_of[static_cast<size_t>(t)];
                if (!expected.empty() && expected.back().document == document) continue;
                int64_t start = t;
                while (start > 0 && corpus.document_of[static_cast<size_t>(start - 1)] == document)
                    --start;
                expected.push_back({document, start});
            }
            const auto found = shard.documents_in(begin, end);
            ASSERT_EQ(found.size(), expected.size()) << begin << " " << end;
            for (size_t i = 0; i < found.size(); ++i) {
                EXPECT_EQ(found[i].document, expected[i].document);
                EXPECT_EQ(found[i].token, expected[i].token);
            }
        }
    }
}

/// The golden shard with one change; opening or verifying must refuse it.
template <typename Change, typename... Parts>
void refused(Change change, const Parts&... parts) {
    TemporaryFolder folder;
    write_golden(io::posix(), folder / "s");
    std::string bin = io::read_all(io::posix(), folder / "s.bin");
    std::string idx = io::read_all(io::posix(), folder / "s.idx");
    change(bin, idx);
    expect_error(
        ErrorKind::data,
        [&] {
            TokenShard(std::make_unique<MemoryFile>(bin, "s.bin"),
                       std::make_unique<MemoryFile>(idx, "s.idx"))
                .verify(65500);
        },
        parts...);
}

template <typename T>
void put(std::string& bytes, size_t at, T value) {
    std::memcpy(bytes.data() + at, &value, sizeof value);
}

TEST(TokenShard, DamageIsNamed) {
    refused([](auto&, auto& idx) { idx.resize(33); }, "s.idx", "33 bytes", "34");
    refused([](auto&, auto& idx) { idx[0] = 'X'; }, "s.idx", "MMIDIDX");
    refused([](auto&, auto& idx) { put<uint64_t>(idx, 9, 2); }, "s.idx", "version 2");
    refused([](auto&, auto& idx) { idx[17] = 7; }, "s.idx", "type code 7");
    refused([](auto&, auto& idx) { put<uint64_t>(idx, 18, 4); }, "4 sequences", "94 bytes");
    refused([](auto&, auto& idx) { put<uint64_t>(idx, 18, uint64_t{1} << 62); }, "94 bytes");
    refused([](auto&, auto& idx) { put<uint64_t>(idx, 26, ~uint64_t{0}); }, "94 bytes");
    refused([](auto&, auto& idx) { put<uint64_t>(idx, 26, (uint64_t{1} << 61) + 3); }, "94 bytes");
    refused([](auto&, auto& idx) { idx += 'x'; }, "95 bytes", "multimodal");
    refused([](auto&, auto& idx) { put<int64_t>(idx, 70, 1); }, "first document");
    refused([](auto&, auto& idx) { put<int64_t>(idx, 86, 2); }, "end at sequence 2", "are 3");
    refused([](auto&, auto& idx) { put<int64_t>(idx, 78, 9); }, "document");
    refused([](auto&, auto& idx) { put<int64_t>(idx, 62, 8); }, "ends at byte 10", "12 bytes");
    refused([](auto&, auto& idx) { put<int64_t>(idx, 62, INT64_MAX); }, "last sequence");
    refused([](auto&, auto& idx) { put<int64_t>(idx, 54, 4); }, "sequence 1", "instead of 6");
    refused([](auto&, auto& idx) { put<int32_t>(idx, 34, 2); }, "sequence 1", "instead of 4");
    refused([](auto& bin, auto&) { bin.pop_back(); }, "s.bin", "11 bytes");
    refused([](auto& bin, auto&) { bin.resize(10); }, "s.bin", "12", "10 bytes");
    refused([](auto& bin, auto&) { put<uint16_t>(bin, 4, 65500); }, "token 2", "65500");
}

TEST(TokenShard, DocumentsOutOfOrderAreRefusedWhenTheyAreMet) {
    TemporaryFolder folder;
    write_golden(io::posix(), folder / "s");
    std::string idx = io::read_all(io::posix(), folder / "s.idx");
    put<int64_t>(idx, 46, 12);  // the first sequence begins at the end
    put<int64_t>(idx, 78, 0);   // and both documents at the first sequence
    const TokenShard shard(
        std::make_unique<MemoryFile>(io::read_all(io::posix(), folder / "s.bin"), "s.bin"),
        std::make_unique<MemoryFile>(idx, "s.idx"));
    expect_error(
        ErrorKind::data, [&] { shard.documents_in(0, 6); }, "s.idx", "out of order");
}

TEST(TokenShard, EveryFlippedBitIsRefusedByTheManifest) {
    TemporaryFolder folder;
    DatasetManifest manifest;
    manifest.vocab_size = 65500;
    ShardEntry entry = write_golden(io::posix(), folder / "s");
    entry.prefix = "s";
    EXPECT_NO_THROW(verify_shard(io::posix(), folder.path(), entry, manifest));
    for (const char* name : {"s.bin", "s.idx"}) {
        const std::string sound = io::read_all(io::posix(), folder / name);
        for (size_t bit = 0; bit < sound.size() * 8; ++bit) {
            std::string flipped = sound;
            flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ (1 << (bit % 8)));
            io::posix()
                .open_write(folder / name, io::OpenMode::update)
                ->write_at(0, std::as_bytes(std::span(flipped)));
            expect_error(
                ErrorKind::data, [&] { verify_shard(io::posix(), folder.path(), entry, manifest); },
                folder / name);
        }
        io::posix()
            .open_write(folder / name, io::OpenMode::update)
            ->write_at(0, std::as_bytes(std::span(sound)));
    }
    entry.documents = 3;
    expect_error(
        ErrorKind::data, [&] { verify_shard(io::posix(), folder.path(), entry, manifest); },
        "2 documents", "says 6 in 3");
}

}  // namespace
}  // namespace plinth::core::data
