// SPDX-License-Identifier: Apache-2.0
#include "core/data/byte_tokenizer.h"

#include "core/data/special_tokens.h"
#include "core/io/hash.h"
#include "core/io/json.h"
#include "kernels/runtime/error.h"

namespace plinth::core::data {

namespace {

constexpr int32_t end_id = 256;

class ByteEncoder : public Encoder {
  public:
    explicit ByteEncoder(SpecialTokens special) : special_(std::move(special)) {}

    void encode(std::string_view text, std::vector<int32_t>& ids) override {
        ids.reserve(ids.size() + text.size());
        special_.split(
            text,
            [&](std::string_view plain) {
                for (const char c : plain)
                    ids.push_back(static_cast<unsigned char>(c));
            },
            [&](int32_t id) { ids.push_back(id); });
    }

  private:
    SpecialTokens special_;
};

}  // namespace

ByteTokenizer::ByteTokenizer(bool end_token) : end_token_(end_token) {
    for (int byte = 0; byte < 256; ++byte)
        bytes_.push_back(static_cast<char>(byte));
}

std::optional<int32_t> ByteTokenizer::end_of_document() const {
    return end_token_ ? std::optional(end_id) : std::nullopt;
}

std::string_view ByteTokenizer::token_bytes(int32_t id) const {
    REQUIRE(data, id >= 0 && id < vocab_size(), "token {} is not in the {} vocabulary of {}", id,
            kind, vocab_size());
    return id == end_id ? end_of_text : std::string_view(bytes_).substr(static_cast<size_t>(id), 1);
}

std::unique_ptr<Encoder> ByteTokenizer::make_encoder(SpecialText special) const {
    if (special == SpecialText::plain || !end_token_) {
        return std::make_unique<ByteEncoder>(SpecialTokens());
    }
    return std::make_unique<ByteEncoder>(SpecialTokens({{end_of_text, end_id}}));
}

TokenizerFiles ByteTokenizer::serialize() const {
    io::Json json = io::Json::object();
    json["kind"] = kind;
    json["end_token"] = end_token_;
    return {{tokenizer_description_file, json.dump(2) + "\n"}};
}

std::string ByteTokenizer::content_hash() const {
    return io::to_hex(io::xxh3_128(fmt::format("{} {}", kind, vocab_size())));
}

}  // namespace plinth::core::data
