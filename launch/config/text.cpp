// SPDX-License-Identifier: Apache-2.0
#include "launch/config/text.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

namespace plinth::launch {
namespace {

struct Unit {
    std::string_view name;
    int64_t size;
};

constexpr std::array<Unit, 9> byte_units{{{"TiB", int64_t{1} << 40},
                                          {"GiB", int64_t{1} << 30},
                                          {"MiB", int64_t{1} << 20},
                                          {"KiB", int64_t{1} << 10},
                                          {"TB", 1'000'000'000'000},
                                          {"GB", 1'000'000'000},
                                          {"MB", 1'000'000},
                                          {"KB", 1'000},
                                          {"B", 1}}};

struct TimeUnit {
    std::string_view name;
    double seconds;
};

constexpr std::array<TimeUnit, 5> time_units{
    {{"d", 86400}, {"h", 3600}, {"m", 60}, {"s", 1}, {"ms", 0.001}}};

// The length of the well-formed UTF-8 sequence at the start of `text`; 0 if there is none.
size_t sequence_length(std::string_view text) {
    const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
    const unsigned char first = byte(0);
    if (first < 0x80) return 1;
    const size_t length = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
    if (first < 0xC2 || first > 0xF4 || text.size() < length) return 0;
    for (size_t i = 1; i < length; ++i)
        if ((byte(i) & 0xC0) != 0x80) return 0;
    const bool overlong = (first == 0xE0 && byte(1) < 0xA0) || (first == 0xF0 && byte(1) < 0x90);
    const bool surrogate = first == 0xED && byte(1) >= 0xA0;
    const bool too_large = first == 0xF4 && byte(1) >= 0x90;
    return overlong || surrogate || too_large ? 0 : length;
}

bool is_letter(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}
bool is_digit(char c) {
    return c >= '0' && c <= '9';
}

// Text that YAML reads as this same string without quotes, in any context.
bool plain_is_safe(std::string_view text) {
    if (text.empty() || !(is_letter(text[0]) || text[0] == '/' || text[0] == '_')) return false;
    if (text == "null" || text == "Null" || text == "NULL") return false;
    return std::all_of(text.begin(), text.end(), [](char c) {
        return is_letter(c) || is_digit(c) || c == '_' || c == '-' || c == '.' || c == '/';
    });
}

// Optimal string alignment distance: Levenshtein plus swaps of neighbours.
size_t edit_distance(std::string_view a, std::string_view b) {
    std::vector<std::vector<size_t>> d(a.size() + 1, std::vector<size_t>(b.size() + 1));
    for (size_t i = 0; i <= a.size(); ++i)
        d[i][0] = i;
    for (size_t j = 0; j <= b.size(); ++j)
        d[0][j] = j;
    for (size_t i = 1; i <= a.size(); ++i) {
        for (size_t j = 1; j <= b.size(); ++j) {
            const size_t replace = d[i - 1][j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
            d[i][j] = std::min({d[i - 1][j] + 1, d[i][j - 1] + 1, replace});
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                d[i][j] = std::min(d[i][j], d[i - 2][j - 2] + 1);
        }
    }
    return d[a.size()][b.size()];
}

}  // namespace

bool is_utf8(std::string_view text) {
    while (!text.empty()) {
        const size_t length = sequence_length(text);
        if (length == 0) return false;
        text.remove_prefix(length);
    }
    return true;
}

std::optional<int64_t> parse_integer(std::string_view text) {
    int64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size() || text.empty()) return {};
    return value;
}

std::optional<double> parse_number(std::string_view text) {
    double value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size() || text.empty()) return {};
    if (!std::isfinite(value)) return {};
    return value;
}

std::optional<int64_t> parse_bytes(std::string_view text) {
    int64_t unit = 1;
    for (const Unit& candidate : byte_units) {
        if (text.ends_with(candidate.name)) {
            unit = candidate.size;
            text.remove_suffix(candidate.name.size());
            break;
        }
    }
    if (const auto whole = parse_integer(text)) {
        int64_t bytes = 0;
        if (__builtin_mul_overflow(*whole, unit, &bytes)) return {};
        return bytes;
    }
    const auto number = parse_number(text);
    if (!number) return {};
    const double bytes = *number * static_cast<double>(unit);
    if (bytes != std::floor(bytes) || std::abs(bytes) > 9e15) return {};
    return static_cast<int64_t>(bytes);
}

std::string format_bytes(int64_t bytes) {
    std::string shortest = fmt::format("{}", bytes);
    for (const Unit& unit : byte_units) {
        if (unit.size == 1 || bytes == 0 || bytes % unit.size != 0) continue;
        const std::string text = fmt::format("{}{}", bytes / unit.size, unit.name);
        if (text.size() < shortest.size()) shortest = text;
    }
    return shortest;
}

std::optional<double> parse_seconds(std::string_view text) {
    if (const auto plain = parse_number(text)) return plain;
    double total = 0;
    size_t next_unit = 0;
    if (text.empty()) return {};
    while (!text.empty()) {
        const size_t digits = text.find_first_not_of("0123456789.");
        if (digits == std::string_view::npos) return {};
        const auto number = parse_number(text.substr(0, digits));
        text.remove_prefix(digits);
        const std::string_view name = text.substr(0, text.find_first_of("0123456789."));
        while (next_unit < time_units.size() && time_units[next_unit].name != name)
            ++next_unit;
        if (!number || next_unit == time_units.size()) return {};
        total += *number * time_units[next_unit++].seconds;
        text.remove_prefix(name.size());
    }
    return total;
}

std::string format_seconds(double seconds) {
    if (seconds < 0 || seconds != std::floor(seconds) || seconds > 9e15)
        return fmt::format("{}", seconds);
    if (seconds == 0) return "0s";
    std::string text;
    auto left = static_cast<int64_t>(seconds);
    for (size_t i = 0; i < 4; ++i) {
        const auto unit = static_cast<int64_t>(time_units[i].seconds);
        if (left >= unit) text += fmt::format("{}{}", left / unit, time_units[i].name);
        left %= unit;
    }
    return text;
}

std::string quote_yaml(std::string_view text) {
    if (plain_is_safe(text)) return std::string(text);
    std::string quoted = "\"";
    for (const char c : text) {
        if (c == '"' || c == '\\')
            quoted += fmt::format("\\{}", c);
        else if (c == '\n')
            quoted += "\\n";
        else if (c == '\t')
            quoted += "\\t";
        else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F)
            quoted += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
        else
            quoted += c;
    }
    return quoted + '"';
}

std::string nearest(std::string_view word, const std::vector<std::string>& candidates) {
    constexpr size_t longest_word = 64;
    if (word.size() > longest_word) return {};
    size_t best = std::max<size_t>(1, word.size() / 3) + 1;
    std::string found;
    for (const std::string& candidate : candidates) {
        const size_t distance = edit_distance(word, candidate);
        // A word of one letter is at distance 1 of every other: that is no hint.
        if (distance < best && distance < candidate.size()) {
            best = distance;
            found = candidate;
        }
    }
    return found;
}

std::string last_part(std::string path) {
    while (path.size() > 1 && path.back() == '/')
        path.pop_back();
    return path.substr(path.rfind('/') + 1);
}

}  // namespace plinth::launch
