// SPDX-License-Identifier: Apache-2.0
#include "core/data/pretokenizer.h"

#include <gtest/gtest.h>

#include "kernels/runtime/error.h"

namespace plinth::core::data {
namespace {

using Pieces = std::vector<std::string>;

Pieces split(const std::string& text, const std::string& pattern = gpt2_pattern) {
    const PreTokenizer pretokenizer(pattern);
    PreTokenizer::Splitter splitter(pretokenizer);
    Pieces pieces;
    splitter.split(text, [&](std::string_view piece) { pieces.emplace_back(piece); });
    return pieces;
}

TEST(PreTokenizer, SplitsAsTheReference) {
    // The pieces that Python's `regex` and Rust's engines give for GPT-2's expression.
    EXPECT_EQ(
        split("Hello  world's 12345\n\n  x\u00a0y \u3000z caf\u00e9 \u4f60\u597d\U0001f642!!"
              "\r\n\tI'LL"),
        (Pieces{"Hello",        " ",    " world", "'s",     " 12345", "\n\n ",      " x",
                "\u00a0",       "y",    " ",      "\u3000", "z",      " caf\u00e9", " \u4f60\u597d",
                "\U0001f642!!", "\r\n", "\t",     "I",      "'",      "LL"}));
}

TEST(PreTokenizer, MongolianVowelSeparatorIsNoWhiteSpace) {
    EXPECT_EQ(split("a  \u180eb"), (Pieces{"a", " ", " \u180e", "b"}));
    // The mutant: with PCRE2's own \s it is.
    const std::string own_class =
        R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
    EXPECT_NE(split("a  \u180eb", own_class), (Pieces{"a", " ", " \u180e", "b"}));
}

TEST(PreTokenizer, IllFormedRunsArePiecesOfTheirOwn) {
    EXPECT_EQ(split("ab\xFF\xC3 cd\xE2\x82"), (Pieces{"ab", "\xFF\xC3", " cd", "\xE2\x82"}));
    EXPECT_EQ(split("\xED\xA0\x80"), (Pieces{"\xED\xA0\x80"}));
    EXPECT_EQ(split(""), Pieces{});
}

TEST(PreTokenizer, GapsBetweenMatchesAreKept) {
    EXPECT_EQ(split("a1bc2", "[0-9]"), (Pieces{"a", "1", "bc", "2"}));
}

TEST(PreTokenizer, ABadExpressionIsNamed) {
    try {
        const PreTokenizer pretokenizer("a(b");
        ADD_FAILURE() << "compiled";
    } catch (const Error& error) {
        EXPECT_EQ(error.kind(), ErrorKind::data);
        EXPECT_NE(std::string(error.what()).find("at character 3 of \"a(b\""), std::string::npos)
            << error.what();
    }
}

}  // namespace
}  // namespace plinth::core::data
