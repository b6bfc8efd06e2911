// SPDX-License-Identifier: Apache-2.0
#include "core/data/cleaning.h"

#include <gtest/gtest.h>

#include "core/data/unicode.h"
#include "tests/support/expect_error.h"

namespace plinth::core::data {
namespace {

std::string cleaned(std::string text, CleaningConfig config = {}) {
    const std::optional<std::string> reason = Cleaner(config).clean(text);
    return reason ? "dropped: " + *reason : text;
}

TEST(Unicode, WellFormedPrefixFollowsTheStandardsTable) {
    // Last and first code points of each row of Unicode's table 3-7, and their neighbours.
    for (const char* good :
         {"", "a", "\x7F", "\xC2\x80", "\xDF\xBF", "\xE0\xA0\x80", "\xED\x9F\xBF", "\xEE\x80\x80",
          "\xEF\xBF\xBF", "\xF0\x90\x80\x80", "\xF4\x8F\xBF\xBF", "12345678\xC3\xA9 12345678"}) {
        EXPECT_TRUE(is_valid_utf8(good)) << good;
    }
    for (const char* bad : {"\x80", "\xC0\x80", "\xC1\xBF", "\xC2", "\xE0\x9F\xBF", "\xED\xA0\x80",
                            "\xED\xBF\xBF", "\xF0\x8F\xBF\xBF", "\xF4\x90\x80\x80",
                            "\xF5\x80\x80\x80", "\xFF", "\xE2\x82", "\xF0\x9F\x99"}) {
        const std::string text = "12345678abc" + std::string(bad);
        EXPECT_EQ(valid_utf8_prefix(text), 11u) << bad;
    }
}

TEST(Unicode, ReplacementTakesMaximalSubparts) {
    // The example of Unicode 15, table 3-11 (also what Python's errors="replace" gives).
    EXPECT_EQ(replace_invalid_utf8("\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41"),
              "\uFFFD\uFFFD\uFFFD\uFFFD\x41");
    EXPECT_EQ(replace_invalid_utf8("\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41"),
              "\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\x41");
    EXPECT_EQ(replace_invalid_utf8("plain \u00e9"), "plain \u00e9");
}

TEST(Unicode, NormalFormC) {
    // Expected texts from Python's unicodedata.normalize("NFC", ...).
    EXPECT_EQ(normalize_nfc("e\u0301 A\u030a \u1100\u1161\u11a8\n\u212b \u0344"),
              "\u00e9 \u00c5 \uac01\n\u00c5 \u0308\u0301");
    EXPECT_EQ(normalize_nfc("\u1e9b\u0323"), "\u1e9b\u0323");
    EXPECT_EQ(normalize_nfc("a\u0323\u0302 a\u0302\u0323"), "\u1ead \u1ead");
    EXPECT_EQ(normalize_nfc("\n\u0301\n"), "\n\u0301\n");
    EXPECT_EQ(normalize_nfc(""), "");
}

TEST(Cleaner, LineEndsAndControls) {
    EXPECT_EQ(cleaned("\uFEFFa\r\nb\rc\u0085d\te\n"), "a\nb\nc\nd\te\n");
    EXPECT_EQ(cleaned(std::string("a\0b\x01\x1b[0m\x7f\u0080\u009f\u00a0c\r", 18)),
              "ab[0m\u00a0c\n");
    EXPECT_EQ(cleaned("e\x01\u0301"), "\u00e9");  // controls go before the normal form
    EXPECT_EQ(cleaned("e\u0301", {.normal_form = NormalForm::none}), "e\u0301");
}

TEST(Cleaner, DropsByReason) {
    EXPECT_EQ(cleaned(""), "dropped: blank");
    EXPECT_EQ(cleaned(" \t\r\n\u00a0\u3000\u2028\u200b"), "dropped: blank");
    EXPECT_EQ(cleaned("\u4f60\u597d", {.min_characters = 3}), "dropped: too_short");
    EXPECT_EQ(cleaned("\u4f60\u597d!", {.min_characters = 3}), "\u4f60\u597d!");
    EXPECT_EQ(cleaned("a\xFF"), "a\uFFFD");
    EXPECT_EQ(cleaned("a\xFF", {.invalid_utf8 = InvalidUtf8::drop}), "dropped: invalid_utf8");
    test::expect_error(
        ErrorKind::config, [] { Cleaner({.min_characters = -1}); }, "min_characters");
}

class NoDigits : public DocumentFilter {
  public:
    std::string reason() const override { return "digits"; }
    bool keep(std::string_view text) const override {
        return text.find_first_of("0123456789") == std::string_view::npos;
    }
};

TEST(Cleaner, FiltersSeeTheCleanedText) {
    const Cleaner cleaner({}, {std::make_shared<NoDigits>()});
    std::string one = "a1", none = "a\x01";
    EXPECT_EQ(cleaner.clean(one), "digits");
    EXPECT_EQ(cleaner.clean(none), std::nullopt);
    EXPECT_EQ(none, "a");
}

}  // namespace
}  // namespace plinth::core::data
