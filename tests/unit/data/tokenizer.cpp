// SPDX-License-Identifier: Apache-2.0
#include "core/data/tokenizer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <random>
#include <thread>

#include "core/data/byte_level_bpe.h"
#include "core/data/byte_tokenizer.h"
#include "core/data/unicode.h"
#include "core/io/hash.h"
#include "core/io/json.h"
#include "kernels/runtime/error.h"

namespace plinth::core::data {
namespace {

const std::string golden = std::string(PLINTH_SOURCE_DIR) + "/tests/golden/tokenizer";

std::unique_ptr<Tokenizer> tiny() {
    return load_tokenizer(io::posix(), golden + "/tiny");
}

std::string hash_of(const std::vector<int32_t>& ids) {
    return io::to_hex(io::xxh3_64(std::as_bytes(std::span(ids))));
}

struct HostileCase {
    std::string name, text, hash;
    size_t count;
    std::vector<int32_t> ids;  ///< empty for long ones
};

std::vector<HostileCase> hostile_cases() {
    const std::string path = golden + "/hostile.json";
    const io::Json json = io::Json::parse(io::read_all(io::posix(), path), path);
    std::vector<HostileCase> cases;
    for (const io::Json& entry : json.as_array()) {
        HostileCase made{entry.get_string("name"),
                         "",
                         entry.get_string("xxh3_64"),
                         static_cast<size_t>(entry.get_int("count")),
                         {}};
        for (const io::Json& part : entry.get_array("parts")) {
            for (int64_t i = 0; i < part.as_array()[1].as_int(); ++i) {
                made.text += part.as_array()[0].as_string();
            }
        }
        if (const io::Json* ids = entry.find("ids")) {
            for (const io::Json& id : ids->as_array()) {
                made.ids.push_back(static_cast<int32_t>(id.as_int()));
            }
        }
        cases.push_back(std::move(made));
    }
    return cases;
}

std::string error_of(const std::function<void()>& act) {
    try {
        act();
    } catch (const Error& error) {
        EXPECT_EQ(error.kind(), ErrorKind::data);
        return error.what();
    }
    return "no error";
}

TEST(ByteLevelBpe, HostileTextsHaveTheReferenceIds) {
    const auto tokenizer = tiny();
    const auto encoder = tokenizer->make_encoder();
    // Twice: the second pass finds its short pieces in the encoder's cache.
    for (int pass = 0; pass < 2; ++pass) {
        for (const HostileCase& hostile : hostile_cases()) {
            std::vector<int32_t> ids;
            encoder->encode(hostile.text, ids);
            if (hostile.count == hostile.ids.size()) {
                EXPECT_EQ(ids, hostile.ids) << hostile.name;
            }
            EXPECT_EQ(ids.size(), hostile.count) << hostile.name;
            EXPECT_EQ(hash_of(ids), hostile.hash) << hostile.name;
            EXPECT_EQ(tokenizer->decode(ids), hostile.text) << hostile.name;
        }
    }
}

// The mutant of the test above: with the ranks in reverse order some ids must differ.
TEST(ByteLevelBpe, ReversedRanksChangeTheReferenceIds) {
    const auto whole = tiny();
    BpeModel model = dynamic_cast<const ByteLevelBpe&>(*whole).model();
    std::reverse(model.merges.begin(), model.merges.end());
    const ByteLevelBpe mutant(model);
    size_t differing = 0;
    for (const HostileCase& hostile : hostile_cases()) {
        differing += hash_of(mutant.encode(hostile.text)) != hostile.hash;
    }
    EXPECT_GT(differing, 0u);
}

// GPT-2's own files and corpora of megabytes are no part of the project (docs/decisions.md), so
// this one is skipped unless a folder with tokenizers/gpt2 and corpora/ is named:
//   PLINTH_SHARED_DATA=FOLDER build/dev/tests/unit_data --gtest_filter='ByteLevelBpe.Gpt2*'
// What needs neither, a vocabulary of the same size and layout, is in large_vocabulary.cpp.
TEST(ByteLevelBpe, Gpt2CorporaHaveTheReferenceIds) {
    const char* shared = std::getenv("PLINTH_SHARED_DATA");
    if (shared == nullptr) GTEST_SKIP() << "PLINTH_SHARED_DATA names no folder of corpora";
    io::FileSystem& files = io::posix();
    const auto tokenizer = load_tokenizer(files, io::join(shared, "tokenizers/gpt2"));
    const std::string path = golden + "/gpt2_corpora.json";
    const io::Json expected = io::Json::parse(io::read_all(files, path), path);
    for (const auto& [name, entry] : expected.as_object().members()) {
        const auto encoder = tokenizer->make_encoder();
        std::vector<int32_t> ids;
        int64_t documents = 0;
        const auto add = [&](std::string_view text) {
            encoder->encode(text, ids);
            ++documents;
        };
        if (name == "hostile") {
            for (const HostileCase& hostile : hostile_cases())
                add(hostile.text);
        } else {
            const std::string text = io::read_all(files, io::join(shared, "corpora/" + name));
            if (name.ends_with(".jsonl")) {
                for (size_t at = 0; at < text.size();) {
                    const size_t end = std::min(text.find('\n', at), text.size());
                    add(io::Json::parse(text.substr(at, end - at), name).get_string("text"));
                    at = end + 1;
                }
            } else {
                add(text);
            }
        }
        EXPECT_EQ(documents, entry.get_int("documents")) << name;
        EXPECT_EQ(static_cast<int64_t>(ids.size()), entry.get_int("tokens")) << name;
        EXPECT_EQ(hash_of(ids), entry.get_string("xxh3_64")) << name;
    }
}

TEST(ByteLevelBpe, RandomBytesComeBack) {
    const auto tokenizer = tiny();
    std::mt19937_64 random(7);
    for (int round = 0; round < 200; ++round) {
        std::string bytes;
        for (size_t i = random() % 200; i > 0; --i) {
            // Half of the bytes from a small alphabet, so that sequences begin and break off.
            bytes.push_back(
                static_cast<char>(random() % 2 ? random() : " a\xC3\xE2\x82\xAC\n"[random() % 7]));
        }
        EXPECT_EQ(tokenizer->decode(tokenizer->encode(bytes)), bytes);
    }
}

TEST(ByteLevelBpe, TheHeapAgreesWithTheScan) {
    // A word goes through the scan alone, and through the heap behind a long run of letters that
    // the training text lacks, so that nothing merges across.
    const auto tokenizer = tiny();
    std::mt19937_64 random(11);
    const std::string letter = "\xEA\x80\x95";  // U+A015
    std::string prefix;
    for (int i = 0; i < 20; ++i)
        prefix += letter;
    const std::vector<int32_t> prefix_ids = tokenizer->encode(prefix);
    for (int round = 0; round < 500; ++round) {
        std::string word;
        for (size_t i = 1 + random() % 20; i > 0; --i) {
            word.push_back("etaoinshrdlu"[random() % 12]);
        }
        std::vector<int32_t> expected = prefix_ids;
        const std::vector<int32_t> ids = tokenizer->encode(word);
        expected.insert(expected.end(), ids.begin(), ids.end());
        EXPECT_EQ(tokenizer->encode(prefix + word), expected) << word;
    }
}

TEST(ByteLevelBpe, PlainTextNeverMakesASpecialToken) {
    const auto tokenizer = tiny();
    const int32_t end = tokenizer->end_of_document().value();
    for (const int32_t id : tokenizer->encode("a<|endoftext|>b"))
        EXPECT_NE(id, end);
    const std::vector<int32_t> ids = tokenizer->encode("a<|endoftext|>b", SpecialText::recognise);
    const std::vector<int32_t> a = tokenizer->encode("a"), b = tokenizer->encode("b");
    EXPECT_EQ(ids, (std::vector<int32_t>{a[0], end, b[0]}));
    EXPECT_EQ(tokenizer->decode(ids), "a<|endoftext|>b");
}

TEST(ByteLevelBpe, EncodersOnManyThreadsAgree) {
    const auto tokenizer = tiny();
    std::vector<std::vector<int32_t>> results(4);
    std::vector<std::thread> threads;
    for (auto& result : results) {
        threads.emplace_back([&] {
            const auto encoder = tokenizer->make_encoder();
            for (const HostileCase& hostile : hostile_cases())
                encoder->encode(hostile.text, result);
        });
    }
    for (std::thread& thread : threads)
        thread.join();
    for (const auto& result : results)
        EXPECT_EQ(result, results[0]);
    EXPECT_FALSE(results[0].empty());
}

TEST(ByteLevelBpe, SerializedFilesMakeAnEqualTokenizer) {
    const auto tokenizer = tiny();
    const auto copy = load_tokenizer(tokenizer->serialize(), "memory");
    EXPECT_EQ(dynamic_cast<const ByteLevelBpe&>(*copy).model(),
              dynamic_cast<const ByteLevelBpe&>(*tokenizer).model());
    EXPECT_EQ(copy->content_hash(), tokenizer->content_hash());
    EXPECT_EQ(copy->serialize(), tokenizer->serialize());

    BpeModel model = dynamic_cast<const ByteLevelBpe&>(*tokenizer).model();
    std::swap(model.merges[0], model.merges[1]);
    EXPECT_NE(ByteLevelBpe(model).content_hash(), tokenizer->content_hash());
}

/// vocab.json of the 256 bytes and `extra`.
std::string byte_vocab(const std::string& extra) {
    std::string json = "{\n";
    int id = 0;
    for (const unsigned char byte : byte_level_order()) {
        const io::Json text(to_byte_level_text(std::string(1, static_cast<char>(byte))));
        json += fmt::format("{}: {},\n", text.dump(), id++);
    }
    return json + extra + "}";
}

std::string parse_error(const std::string& vocab, const std::string& merges) {
    return error_of([&] { parse_bpe_model(vocab, "v.json", merges, "m.txt"); });
}

TEST(BpeModel, MalformedFilesAreNamedByLineAndToken) {
    const std::string vocab = byte_vocab("\"ab\": 256, \"abc\": 257");
    EXPECT_EQ(parse_bpe_model(vocab, "v", "#version: 0.2\r\na b\r\nab c\r\n", "m").merges.size(),
              2u);
    EXPECT_EQ(parse_bpe_model(vocab, "v", "a b\nab c", "m").merges.size(), 2u);
    EXPECT_EQ(parse_error(vocab, "#version: 0.2\na b\nab\n"),
              "m.txt:3: expected two tokens with one space between");
    EXPECT_EQ(parse_error(vocab, "a b c\n"), "m.txt:1: expected two tokens with one space between");
    EXPECT_EQ(parse_error(vocab, "a b\n\nab c\n"),
              "m.txt:2: expected two tokens with one space between");
    EXPECT_EQ(parse_error(vocab, "a b\na c\n"), "m.txt:2: \"ac\" is not in the vocabulary");
    EXPECT_EQ(parse_error(vocab, "a b\na b\n"), "m.txt:2: the pair \"a b\" was merged before");
    EXPECT_EQ(parse_error("[1]", ""),
              "v.json: expected one object of tokens and ids, found an array");
    EXPECT_EQ(parse_error(byte_vocab("\"ab\": 300"), ""),
              "v.json: token \"ab\": id 300 is not in 0..256; ids must have no gaps");
    EXPECT_EQ(parse_error(byte_vocab("\"ab\": 3"), ""),
              "v.json: token \"ab\": id 3 belongs to \"$\" already");
    EXPECT_EQ(parse_error(byte_vocab("\"ab\": \"x\""), ""),
              "v.json: token \"ab\": the id must be an integer, found a string");
    EXPECT_EQ(parse_error("{\"a\": 0}", ""), "v.json: no token for the byte 0x00 (\"\u0100\")");
    EXPECT_NE(parse_error(byte_vocab("\"a b\": 256"), "").find("not in the byte-level alphabet"),
              std::string::npos);
    EXPECT_NE(parse_error("{\"a\": 0", "").find("v.json:1"), std::string::npos);
}

TEST(ByteTokenizer, BytesAreIds) {
    const ByteTokenizer with_end(true), without(false);
    EXPECT_EQ(with_end.vocab_size(), 257);
    EXPECT_EQ(without.vocab_size(), 256);
    EXPECT_EQ(with_end.end_of_document(), 256);
    EXPECT_FALSE(without.end_of_document());
    const std::string bytes("a\0\xFF", 3);
    EXPECT_EQ(without.encode(bytes), (std::vector<int32_t>{97, 0, 255}));
    EXPECT_EQ(without.decode({97, 0, 255}), bytes);
    EXPECT_EQ(with_end.encode("<|endoftext|>").size(), 13u);
    EXPECT_EQ(with_end.encode("a<|endoftext|>", SpecialText::recognise),
              (std::vector<int32_t>{97, 256}));
    for (const ByteTokenizer* tokenizer : {&with_end, &without}) {
        const auto copy = load_tokenizer(tokenizer->serialize(), "memory");
        EXPECT_EQ(copy->vocab_size(), tokenizer->vocab_size());
        EXPECT_EQ(copy->content_hash(), tokenizer->content_hash());
    }
    EXPECT_NE(with_end.content_hash(), without.content_hash());
    EXPECT_EQ(error_of([&] { without.token_bytes(256); }),
              "token 256 is not in the byte vocabulary of 256");
}

TEST(LoadTokenizer, NamesWhatIsMissing) {
    EXPECT_EQ(load_tokenizer(io::posix(), "byte")->vocab_size(), 257);
    EXPECT_EQ(load_tokenizer(io::posix(), "byte256")->vocab_size(), 256);
    EXPECT_EQ(error_of([] { load_tokenizer(io::posix(), "no/such"); }),
              "tokenizer: \"no/such\" is no folder; name one, or byte or byte256");
    EXPECT_EQ(
        error_of([] { load_tokenizer({}, "here"); }),
        "here: no tokenizer here: expected plinth_tokenizer.json, or vocab.json and merges.txt");
    TokenizerFiles files = tiny()->serialize();
    files.erase("merges.txt");
    EXPECT_EQ(error_of([&] { load_tokenizer(files, "here"); }),
              "here: the tokenizer's file merges.txt is missing");
    files = {{"plinth_tokenizer.json", "{\"kind\": \"words\"}"}};
    EXPECT_EQ(
        error_of([&] { load_tokenizer(files, "here"); }),
        "here/plinth_tokenizer.json: unknown tokenizer kind \"words\": byte or byte_level_bpe");
}

TEST(StreamDecoder, NeverEmitsPartOfACharacter) {
    const ByteTokenizer tokenizer(true);
    const std::string text = "caf\u00e9 \u4f60\U0001f642!";
    StreamDecoder decoder(tokenizer);
    std::string joined;
    for (const int32_t id : tokenizer.encode(text)) {
        const std::string piece = decoder.push(id);
        EXPECT_TRUE(is_valid_utf8(piece));
        joined += piece;
    }
    EXPECT_EQ(joined + decoder.finish(), text);

    StreamDecoder broken(tokenizer);
    EXPECT_EQ(broken.push(0xE4), "");
    EXPECT_EQ(broken.push('x'), "\uFFFDx");
    EXPECT_EQ(broken.push(0xFF), "\uFFFD");
    EXPECT_EQ(broken.push(0xF0), "");
    EXPECT_EQ(broken.push(0x9F), "");
    EXPECT_EQ(broken.finish(), "\uFFFD");
    EXPECT_EQ(broken.finish(), "");
}

}  // namespace
}  // namespace plinth::core::data
