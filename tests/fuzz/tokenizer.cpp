// SPDX-License-Identifier: Apache-2.0
// Tokenizer files must load or be refused with an error of kind data; what loads must encode any
// bytes so that they decode to themselves. Input: vocab.json NUL merges.txt NUL text. Without a NUL
// the whole input is text for a vocabulary of bytes and a few merges.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "core/data/byte_level_bpe.h"
#include "core/data/unicode.h"
#include "kernels/runtime/error.h"

namespace {

using namespace plinth::core::data;

void expect(bool condition) {
    if (!condition) std::abort();
}

ByteLevelBpe small_vocabulary() {
    BpeModel model;
    for (const unsigned char byte : byte_level_order()) {
        model.byte_ids[byte] = static_cast<int32_t>(model.tokens.size());
        model.tokens.emplace_back(1, static_cast<char>(byte));
    }
    const auto merge = [&](int32_t left, int32_t right) {
        const auto result = static_cast<int32_t>(model.tokens.size());
        model.tokens.push_back(model.tokens[static_cast<size_t>(left)] +
                               model.tokens[static_cast<size_t>(right)]);
        model.merges.push_back({left, right, result});
        return result;
    };
    const int32_t aa = merge(model.byte_ids['a'], model.byte_ids['a']);
    merge(model.byte_ids[' '], aa);
    merge(aa, aa);
    merge(model.byte_ids[0xC3], model.byte_ids[0xA9]);
    return ByteLevelBpe(model);
}

void round_trip(const Tokenizer& tokenizer, std::string_view text) {
    for (const SpecialText special : {SpecialText::plain, SpecialText::recognise}) {
        const std::vector<int32_t> ids = tokenizer.encode(text, special);
        expect(tokenizer.decode(ids) == text);
        StreamDecoder stream(tokenizer);
        std::string shown;
        for (const int32_t id : ids)
            shown += stream.push(id);
        expect(shown + stream.finish() == replace_invalid_utf8(text));
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
    static const ByteLevelBpe small = small_vocabulary();
    const std::string_view input(reinterpret_cast<const char*>(bytes), size);
    const size_t first = input.find('\0');
    const size_t second = first == input.npos ? input.npos : input.find('\0', first + 1);
    if (second == input.npos) {
        round_trip(small, input);
        return 0;
    }
    try {
        const ByteLevelBpe tokenizer(parse_bpe_model(input.substr(0, first), "vocab",
                                                     input.substr(first + 1, second - first - 1),
                                                     "merges"));
        round_trip(tokenizer, input.substr(second + 1));
        const auto copy = load_tokenizer(tokenizer.serialize(), "copy");
        expect(copy->content_hash() == tokenizer.content_hash());
    } catch (const plinth::Error& error) {
        expect(error.kind() == plinth::ErrorKind::data);
    }
    return 0;
}
