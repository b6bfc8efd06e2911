// SPDX-License-Identifier: Apache-2.0
#include "core/data/pretokenizer.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "core/data/unicode.h"
#include "kernels/runtime/error.h"

namespace plinth::core::data {

// Possessive repetition (++) changes no match, since nothing follows it in its alternative, and
// spares the matcher its backtracking record on words of any length.
const char* const gpt2_pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}++| ?\p{N}++| ?[^\t-\r\x{85}\p{Z}\p{L}\p{N}]++)"
    R"(|[\t-\r\x{85}\p{Z}]+(?![^\t-\r\x{85}\p{Z}])|[\t-\r\x{85}\p{Z}]++)";

namespace {

std::string message_of(int code) {
    PCRE2_UCHAR text[256];
    pcre2_get_error_message(code, text, sizeof text);
    return reinterpret_cast<const char*>(text);
}

}  // namespace

struct PreTokenizer::Compiled {
    pcre2_code* code = nullptr;
    ~Compiled() { pcre2_code_free(code); }
};

PreTokenizer::PreTokenizer(const std::string& pattern) : compiled_(std::make_unique<Compiled>()) {
    int error = 0;
    PCRE2_SIZE offset = 0;
    compiled_->code =
        pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                      PCRE2_UTF | PCRE2_UCP | PCRE2_NO_AUTO_CAPTURE, &error, &offset, nullptr);
    REQUIRE(data, compiled_->code != nullptr, "pre-tokeniser pattern: {} at character {} of \"{}\"",
            message_of(error), offset, pattern);
    // Without a JIT for this processor matching is slower and otherwise the same.
    pcre2_jit_compile(compiled_->code, PCRE2_JIT_COMPLETE);
}

PreTokenizer::~PreTokenizer() = default;
PreTokenizer::PreTokenizer(PreTokenizer&&) noexcept = default;
PreTokenizer& PreTokenizer::operator=(PreTokenizer&&) noexcept = default;

struct PreTokenizer::Splitter::Scratch {
    pcre2_match_data* match = nullptr;
    ~Scratch() { pcre2_match_data_free(match); }
};

PreTokenizer::Splitter::Splitter(const PreTokenizer& owner)
    : owner_(&owner), scratch_(std::make_unique<Scratch>()) {
    scratch_->match = pcre2_match_data_create_from_pattern(owner.compiled_->code, nullptr);
    CHECK(scratch_->match != nullptr, "pre-tokeniser: out of memory");
}

PreTokenizer::Splitter::~Splitter() = default;
PreTokenizer::Splitter::Splitter(Splitter&&) noexcept = default;
PreTokenizer::Splitter& PreTokenizer::Splitter::operator=(Splitter&&) noexcept = default;

void PreTokenizer::Splitter::split(std::string_view text,
                                   FunctionRef<void(std::string_view)> take) {
    while (!text.empty()) {
        const size_t valid = valid_utf8_prefix(text);
        split_valid(text.substr(0, valid), take);
        text.remove_prefix(valid);
        size_t bad = 0;
        while (bad < text.size()) {
            const Utf8Sequence sequence = next_utf8_sequence(text.substr(bad));
            if (sequence.state == Utf8Sequence::State::whole) break;
            bad += sequence.length;
        }
        if (bad > 0) take(text.substr(0, bad));
        text.remove_prefix(bad);
    }
}

void PreTokenizer::Splitter::split_valid(std::string_view text,
                                         FunctionRef<void(std::string_view)> take) {
    const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(scratch_->match);
    const auto subject = reinterpret_cast<PCRE2_SPTR>(text.data());
    size_t at = 0;
    while (at < text.size()) {
        const int result =
            pcre2_match(owner_->compiled_->code, subject, text.size(), at,
                        PCRE2_NO_UTF_CHECK | PCRE2_NOTEMPTY, scratch_->match, nullptr);
        if (result == PCRE2_ERROR_NOMATCH) break;
        CHECK(result > 0, "pre-tokeniser: {}", message_of(result));
        if (bounds[0] > at) take(text.substr(at, bounds[0] - at));
        take(text.substr(bounds[0], bounds[1] - bounds[0]));
        at = bounds[1];
    }
    if (at < text.size()) take(text.substr(at));
}

}  // namespace plinth::core::data
