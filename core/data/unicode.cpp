// SPDX-License-Identifier: Apache-2.0
#include "core/data/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "kernels/runtime/error.h"

namespace plinth::core::data {

namespace {

constexpr std::string_view replacement = "\xEF\xBF\xBD";  // U+FFFD

/// The number of leading ASCII bytes, eight at a time.
size_t ascii_prefix(std::string_view text) {
    size_t i = 0;
    for (; i + 8 <= text.size(); i += 8) {
        uint64_t word;
        std::memcpy(&word, text.data() + i, 8);
        if (word & 0x8080808080808080u) break;
    }
    while (i < text.size() && static_cast<unsigned char>(text[i]) < 0x80)
        ++i;
    return i;
}

/// What may follow a lead byte: the number of continuation bytes and the range of the first one.
struct Lead {
    int continuations;  ///< -1: not a lead byte
    unsigned char low = 0x80, high = 0xBF;
};

Lead classify(unsigned char byte) {
    if (byte < 0x80) return {0};
    if (byte < 0xC2) return {-1};
    if (byte < 0xE0) return {1};
    if (byte == 0xE0) return {2, 0xA0, 0xBF};
    if (byte == 0xED) return {2, 0x80, 0x9F};
    if (byte < 0xF0) return {2};
    if (byte == 0xF0) return {3, 0x90, 0xBF};
    if (byte < 0xF4) return {3};
    if (byte == 0xF4) return {3, 0x80, 0x8F};
    return {-1};
}

void append_nfc(std::string& out, std::string_view line) {
    utf8proc_uint8_t* mapped = nullptr;
    const utf8proc_ssize_t length =
        utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(line.data()),
                     static_cast<utf8proc_ssize_t>(line.size()), &mapped,
                     static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
    const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owner(mapped, &std::free);
    CHECK(length >= 0, "normalize_nfc: {}", utf8proc_errmsg(length));
    out.append(reinterpret_cast<const char*>(mapped), static_cast<size_t>(length));
}

}  // namespace

Utf8Sequence next_utf8_sequence(std::string_view text) {
    using State = Utf8Sequence::State;
    Lead lead = classify(static_cast<unsigned char>(text[0]));
    if (lead.continuations < 0) return {State::invalid, 1};
    for (int i = 1; i <= lead.continuations; ++i) {
        const auto at = static_cast<size_t>(i);
        if (at == text.size()) return {State::unfinished, at};
        const auto byte = static_cast<unsigned char>(text[at]);
        if (byte < lead.low || byte > lead.high) return {State::invalid, at};
        lead.low = 0x80;
        lead.high = 0xBF;
    }
    return {State::whole, static_cast<size_t>(lead.continuations) + 1};
}

size_t valid_utf8_prefix(std::string_view text) {
    size_t i = 0;
    while (i < text.size()) {
        if (static_cast<unsigned char>(text[i]) < 0x80) {
            i += ascii_prefix(text.substr(i));
            continue;
        }
        const Utf8Sequence sequence = next_utf8_sequence(text.substr(i));
        if (sequence.state != Utf8Sequence::State::whole) break;
        i += sequence.length;
    }
    return i;
}

std::string replace_invalid_utf8(std::string_view text) {
    std::string out;
    out.reserve(text.size());
    while (!text.empty()) {
        const size_t valid = valid_utf8_prefix(text);
        out.append(text.substr(0, valid));
        text.remove_prefix(valid);
        if (text.empty()) break;
        out.append(replacement);
        text.remove_prefix(next_utf8_sequence(text).length);
    }
    return out;
}

std::string normalize_nfc(std::string_view text) {
    std::string out;
    out.reserve(text.size());
    while (!text.empty()) {
        const size_t end = text.find('\n');
        const std::string_view line =
            text.substr(0, end == std::string_view::npos ? text.size() : end + 1);
        if (ascii_prefix(line) == line.size()) {
            out.append(line);
        } else {
            append_nfc(out, line);
        }
        text.remove_prefix(line.size());
    }
    return out;
}

int64_t count_characters(std::string_view text) {
    return std::count_if(text.begin(), text.end(), [](char c) {
        return (static_cast<unsigned char>(c) & 0xC0) != 0x80;  // not a continuation
    });
}

bool is_blank(std::string_view text) {
    auto at = reinterpret_cast<const utf8proc_uint8_t*>(text.data());
    auto left = static_cast<utf8proc_ssize_t>(text.size());
    while (left > 0) {
        utf8proc_int32_t point = 0;
        const utf8proc_ssize_t length = utf8proc_iterate(at, left, &point);
        CHECK(length > 0, "is_blank: {}", utf8proc_errmsg(length));
        switch (utf8proc_category(point)) {
            case UTF8PROC_CATEGORY_ZS:
            case UTF8PROC_CATEGORY_ZL:
            case UTF8PROC_CATEGORY_ZP:
            case UTF8PROC_CATEGORY_CC:
            case UTF8PROC_CATEGORY_CF:
                break;
            default:
                return false;
        }
        at += length;
        left -= length;
    }
    return true;
}

}  // namespace plinth::core::data
