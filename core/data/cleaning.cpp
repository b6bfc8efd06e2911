// SPDX-License-Identifier: Apache-2.0
#include "core/data/cleaning.h"

#include <algorithm>

#include "core/data/unicode.h"
#include "kernels/runtime/error.h"

namespace plinth::core::data {

namespace {

bool is_control(unsigned char byte) {
    return (byte < 0x20 && byte != '\t' && byte != '\n') || byte == 0x7F;
}

/// Line ends, controls and the byte-order mark, in place: nothing here makes the text longer.
void strip_controls(std::string& text) {
    size_t out = 0;
    size_t in = text.starts_with("\xEF\xBB\xBF") ? 3 : 0;
    while (in < text.size()) {
        const auto byte = static_cast<unsigned char>(text[in]);
        if (byte == '\r') {
            text[out++] = '\n';
            in += in + 1 < text.size() && text[in + 1] == '\n' ? 2 : 1;
        } else if (is_control(byte)) {
            ++in;
        } else if (byte == 0xC2 && static_cast<unsigned char>(text[in + 1]) < 0xA0) {
            // U+0080 .. U+009F, of which U+0085 is a line end.
            if (static_cast<unsigned char>(text[in + 1]) == 0x85) text[out++] = '\n';
            in += 2;
        } else {
            text[out++] = text[in++];
        }
    }
    text.resize(out);
}

}  // namespace

void CleaningConfig::validate() const {
    REQUIRE(config, min_characters >= 0, "prepare.min_characters: must not be negative, got {}",
            min_characters);
}

Cleaner::Cleaner(CleaningConfig config, DocumentFilters filters)
    : config_(config), filters_(std::move(filters)) {
    config_.validate();
}

std::optional<std::string> Cleaner::clean(std::string& text) const {
    if (!is_valid_utf8(text)) {
        if (config_.invalid_utf8 == InvalidUtf8::drop) return dropped::invalid_utf8;
        text = replace_invalid_utf8(text);
    }
    strip_controls(text);
    if (config_.normal_form == NormalForm::nfc) text = normalize_nfc(text);
    if (is_blank(text)) return dropped::blank;
    if (count_characters(text) < config_.min_characters) return dropped::too_short;
    for (const auto& filter : filters_) {
        if (!filter->keep(text)) return filter->reason();
    }
    return std::nullopt;
}

}  // namespace plinth::core::data
