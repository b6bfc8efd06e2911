// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace plinth::launch {

/// True if every byte belongs to a well-formed UTF-8 sequence (no overlong forms, no surrogates).
bool is_utf8(std::string_view text);

/// Decimal digits with an optional minus; nothing else. Empty when the text is not that or does not
/// fit.
std::optional<int64_t> parse_integer(std::string_view text);

/// A finite decimal number. Empty when the text is anything else.
std::optional<double> parse_number(std::string_view text);

/// "512", "512MiB", "2GB", "1.5GiB" -> bytes; KB, MB, GB, TB are powers of 1000, KiB.. of 1024.
/// Empty when the text is anything else or not a whole number of bytes.
std::optional<int64_t> parse_bytes(std::string_view text);
/// The shortest form that `parse_bytes` reads back exactly.
std::string format_bytes(int64_t bytes);

/// "90", "90s", "2h30m", "1d", "500ms" -> seconds; units d, h, m, s, ms fall from left to right.
std::optional<double> parse_seconds(std::string_view text);
/// A form that `parse_seconds` reads back exactly.
std::string format_seconds(double seconds);

/// A YAML scalar that reads back as exactly this text: plain where that is safe, else in double
/// quotes with escapes. Valid in block and in flow style.
std::string quote_yaml(std::string_view text);

/// The candidate with the smallest edit distance (insert, delete, replace, swap neighbours), if it
/// is near enough to be meant; else empty.
std::string nearest(std::string_view word, const std::vector<std::string>& candidates);

/// "b" of "a/b" and of "a/b/".
std::string last_part(std::string path);

}  // namespace plinth::launch
