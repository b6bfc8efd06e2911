// SPDX-License-Identifier: Apache-2.0
#include "core/data/tokenizer.h"

#include "core/data/byte_level_bpe.h"
#include "core/data/byte_tokenizer.h"
#include "core/data/unicode.h"
#include "core/io/json.h"
#include "kernels/runtime/error.h"

namespace plinth::core::data {

std::vector<int32_t> Tokenizer::encode(std::string_view text, SpecialText special) const {
    std::vector<int32_t> ids;
    make_encoder(special)->encode(text, ids);
    return ids;
}

std::string Tokenizer::decode(const std::vector<int32_t>& ids) const {
    std::string bytes;
    for (const int32_t id : ids)
        bytes.append(token_bytes(id));
    return bytes;
}

namespace {

const std::string& file_of(const TokenizerFiles& files, const std::string& where,
                           const std::string& name) {
    const auto found = files.find(name);
    REQUIRE(data, found != files.end(), "{}: the tokenizer's file {} is missing", where, name);
    return found->second;
}

std::unique_ptr<Tokenizer> load_bpe(const TokenizerFiles& files, const std::string& where,
                                    const std::vector<std::string>* special_tokens) {
    return std::make_unique<ByteLevelBpe>(parse_bpe_model(
        file_of(files, where, bpe_vocab_file), io::join(where, bpe_vocab_file),
        file_of(files, where, bpe_merges_file), io::join(where, bpe_merges_file), special_tokens));
}

}  // namespace

std::unique_ptr<Tokenizer> load_tokenizer(const TokenizerFiles& files, const std::string& where) {
    const auto description = files.find(tokenizer_description_file);
    if (description == files.end()) {
        REQUIRE(data, files.contains(bpe_vocab_file) && files.contains(bpe_merges_file),
                "{}: no tokenizer here: expected {}, or {} and {}", where,
                tokenizer_description_file, bpe_vocab_file, bpe_merges_file);
        return load_bpe(files, where, nullptr);
    }
    const std::string path = io::join(where, tokenizer_description_file);
    const io::Json json = io::Json::parse(description->second, path);
    const std::string& kind = json.get_string("kind");
    if (kind == ByteTokenizer::kind) {
        return std::make_unique<ByteTokenizer>(json.get_bool("end_token"));
    }
    REQUIRE(data, kind == ByteLevelBpe::kind, "{}: unknown tokenizer kind \"{}\": {} or {}", path,
            kind, ByteTokenizer::kind, ByteLevelBpe::kind);
    std::vector<std::string> special_tokens;
    for (const io::Json& token : json.get_array("special_tokens")) {
        special_tokens.push_back(token.as_string());
    }
    return load_bpe(files, where, &special_tokens);
}

std::unique_ptr<Tokenizer> load_tokenizer(io::FileSystem& files, const std::string& name) {
    if (name == "byte") return std::make_unique<ByteTokenizer>(true);
    if (name == "byte256") return std::make_unique<ByteTokenizer>(false);
    REQUIRE(data, files.is_directory(name),
            "tokenizer: \"{}\" is no folder; name one, or byte or byte256", name);
    TokenizerFiles content;
    for (const char* file : {tokenizer_description_file, bpe_vocab_file, bpe_merges_file}) {
        const std::string path = io::join(name, file);
        if (files.exists(path)) content[file] = io::read_all(files, path);
    }
    return load_tokenizer(content, name);
}

void save_tokenizer(io::FileSystem& files, const Tokenizer& tokenizer, const std::string& folder) {
    files.make_directories(folder);
    for (const auto& [name, content] : tokenizer.serialize()) {
        io::write_atomically(files, io::join(folder, name), content);
    }
}

std::string StreamDecoder::push(int32_t id) {
    pending_.append(tokenizer_->token_bytes(id));
    // Everything is settled except a sequence that the text ends inside of: at most three bytes.
    size_t settled = 0;
    while (settled < pending_.size()) {
        const auto rest = std::string_view(pending_).substr(settled);
        const Utf8Sequence sequence = next_utf8_sequence(rest);
        if (sequence.state == Utf8Sequence::State::unfinished) break;
        settled += sequence.length;
    }
    std::string text = replace_invalid_utf8(std::string_view(pending_).substr(0, settled));
    pending_.erase(0, settled);
    return text;
}

std::string StreamDecoder::finish() {
    std::string text = replace_invalid_utf8(pending_);
    pending_.clear();
    return text;
}

}  // namespace plinth::core::data
