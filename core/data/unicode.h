// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace plinth::core::data {

/// The length of the longest prefix of `text` that is well-formed UTF-8 (Unicode 15, table 3-7: no
/// surrogates, no overlong forms, nothing above U+10FFFF).
size_t valid_utf8_prefix(std::string_view text);

inline bool is_valid_utf8(std::string_view text) {
    return valid_utf8_prefix(text) == text.size();
}

/// The state of a sequence at the start of `text`: how many bytes belong to it and whether they are
/// a whole scalar, a correct beginning that ends with the text, or ill-formed. An ill-formed
/// sequence has the length of its maximal subpart (at least 1), the unit that one U+FFFD replaces.
struct Utf8Sequence {
    enum class State { whole, unfinished, invalid } state;
    size_t length;
};
Utf8Sequence next_utf8_sequence(std::string_view text);

/// The same text with each ill-formed maximal subpart replaced by U+FFFD, as browsers and Python's
/// `errors="replace"` do.
std::string replace_invalid_utf8(std::string_view text);

/// Normalisation form C of well-formed UTF-8. Lines are normalised one by one, which is the same
/// (a line feed is a starter that composes with nothing), so that memory follows the longest line
/// and plain ASCII lines cost a scan.
std::string normalize_nfc(std::string_view text);

/// The number of code points of well-formed UTF-8.
int64_t count_characters(std::string_view text);

/// Whether well-formed UTF-8 holds nothing but separators, controls and format characters.
bool is_blank(std::string_view text);

}  // namespace plinth::core::data
