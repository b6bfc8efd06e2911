// SPDX-License-Identifier: Apache-2.0
// A vocabulary of GPT-2's size against two independent implementations; who made it and how stands
// in tests/golden/tokenizer/make_golden.py.
#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "core/data/byte_level_bpe.h"
#include "core/data/unicode.h"
#include "core/io/compressed.h"
#include "core/io/hash.h"
#include "core/io/json.h"

namespace plinth::core::data {
namespace {

const std::string golden = std::string(PLINTH_SOURCE_DIR) + "/tests/golden/tokenizer/";
constexpr const char* end_token = "<|endoftext|>";

io::Json read_json(const std::string& name) {
    return io::Json::parse(io::read_all(io::posix(), golden + name), golden + name);
}

/// merges.txt, and the vocab.json that follows from it in GPT-2's layout: the bytes, the results of
/// the merges by rank, the end of a document.
BpeModel read_model() {
    std::string merges;
    std::vector<std::string> tokens;
    for (const unsigned char byte : byte_level_order())
        tokens.push_back(to_byte_level_text(std::string(1, static_cast<char>(byte))));
    io::LineReader lines(io::posix().open_read(golden + "large/merges.txt.gz"));
    for (std::string_view line; lines.next(line);) {
        merges.append(line) += '\n';
        if (lines.line_number() == 1) continue;  // #version
        const size_t space = line.find(' ');
        tokens.push_back(std::string(line.substr(0, space)).append(line.substr(space + 1)));
    }
    tokens.push_back(end_token);
    std::string vocabulary;
    for (size_t id = 0; id < tokens.size(); ++id)
        vocabulary += fmt::format("{}{}: {}", id == 0 ? '{' : ',', io::Json(tokens[id]).dump(), id);
    return parse_bpe_model(vocabulary + "}", "vocab.json", merges, "merges.txt");
}

const BpeModel& model() {
    static const BpeModel read = read_model();
    return read;
}

/// All but the end of a document, where it is valid UTF-8.
std::vector<std::string> tokens_that_are_text() {
    std::vector<std::string> texts;
    for (const std::string& token : model().tokens)
        if (token != end_token && is_valid_utf8(token)) texts.push_back(token);
    return texts;
}

/// Texts of 1,000 pseudo-random tokens, as make_golden.py makes them.
std::vector<std::string> soups(size_t count) {
    const std::vector<std::string> texts = tokens_that_are_text();
    std::vector<std::string> made(count);
    uint64_t state = 7;
    for (std::string& soup : made)
        for (int i = 0; i < 1000; ++i) {
            state = state * 6364136223846793005u + 1442695040888963407u;
            soup += texts[(state >> 33) % texts.size()];
        }
    return made;
}

/// How `ids` differ from the reference's; empty where they do not.
std::string difference(const std::vector<int32_t>& ids, const io::Json& expected) {
    std::vector<int32_t> listed;
    if (const io::Json* list = expected.find("ids"))
        for (const io::Json& id : list->as_array())
            listed.push_back(static_cast<int32_t>(id.as_int()));
    const std::string hash = io::to_hex(io::xxh3_64(std::as_bytes(std::span(ids))));
    if (static_cast<int64_t>(ids.size()) == expected.get_int("count") &&
        hash == expected.get_string("xxh3_64") && (listed.empty() || listed == ids))
        return "";
    return fmt::format("\"{}\": {} ids of hash {}, expected {} of {}", expected.get_string("name"),
                       ids.size(), hash, expected.get_int("count"), expected.get_string("xxh3_64"));
}

std::vector<std::string> passages() {
    std::vector<std::string> texts;
    const io::Json json = read_json("passages.json");
    for (const io::Json& passage : json.as_array())
        texts.push_back(passage.get_string("text"));
    return texts;
}

std::vector<std::string> hostile_texts() {
    std::vector<std::string> texts;
    const io::Json json = read_json("hostile.json");
    for (const io::Json& entry : json.as_array()) {
        texts.emplace_back();
        for (const io::Json& part : entry.get_array("parts"))
            for (int64_t i = 0; i < part.as_array()[1].as_int(); ++i)
                texts.back() += part.as_array()[0].as_string();
    }
    return texts;
}

/// Encodes all the texts of large.json and says which ids are not the reference's.
std::vector<std::string> differences(const ByteLevelBpe& tokenizer) {
    const io::Json json = read_json("large.json");
    const auto encoder = tokenizer.make_encoder(SpecialText::plain);
    std::vector<std::string> found;
    const auto compare = [&](const std::vector<int32_t>& ids, const io::Json& expected) {
        const std::string what = difference(ids, expected);
        if (!what.empty()) found.push_back(what);
    };
    const auto compare_all = [&](const std::vector<std::string>& texts, const char* key) {
        const auto& expected = json.get_array(key);
        ASSERT_EQ(texts.size(), expected.size()) << key;
        for (size_t i = 0; i < texts.size(); ++i) {
            std::vector<int32_t> ids;
            encoder->encode(texts[i], ids);
            EXPECT_EQ(tokenizer.decode(ids), texts[i]) << key << " " << i;
            compare(ids, expected[i]);
        }
    };
    compare_all(passages(), "passages");
    compare_all(hostile_texts(), "hostile");
    compare_all(soups(json.get_array("soups").size()), "soups");
    std::vector<int32_t> ids;
    for (const std::string& token : tokens_that_are_text())
        encoder->encode(token, ids);
    compare(ids, json.at("each_token"));
    return found;
}

TEST(LargeVocabulary, TextsHaveTheReferenceIds) {
    EXPECT_EQ(model().tokens.size(), 50'257u);
    EXPECT_EQ(model().tokens.back(), end_token);
    const auto found = differences(ByteLevelBpe(model()));
    EXPECT_TRUE(found.empty()) << fmt::format("{}", fmt::join(found, "\n"));
}

// The mutants: a thousand merges in reverse order, and one lost. Late merges end whole words, which
// seldom compete: no text here tells their order, but each token alone tells that they exist.
TEST(LargeVocabulary, OtherRanksOrALostMergeChangeTheReferenceIds) {
    for (const ptrdiff_t rank : {0, 1000, 20'000, 49'000}) {
        BpeModel without = model();
        without.merges.erase(without.merges.begin() + rank);
        EXPECT_FALSE(differences(ByteLevelBpe(without)).empty()) << "without " << rank;
        if (rank > 1000) continue;
        BpeModel reversed = model();
        std::reverse(reversed.merges.begin() + rank, reversed.merges.begin() + rank + 1000);
        EXPECT_FALSE(differences(ByteLevelBpe(reversed)).empty()) << "reversed from " << rank;
    }
}

}  // namespace
}  // namespace plinth::core::data
