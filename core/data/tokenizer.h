// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/io/file.h"

namespace plinth::core::data {

/// A tokenizer as a set of small files: name -> bytes. What a checkpoint stores and a folder holds.
using TokenizerFiles = std::map<std::string, std::string>;

/// What the text of a special token (say "<|endoftext|>") inside a document means.
enum class SpecialText {
    plain,      ///< characters like any other: a corpus can never inject a special token
    recognise,  ///< the special token itself: prompts written by the operator
};

/// One thread's encoder: scratch memory and a cache of frequent pieces. Must not outlive its
/// tokenizer. The ids never depend on what was encoded before.
class Encoder {
  public:
    virtual ~Encoder() = default;
    /// Appends the ids of `text` to `ids`. Any bytes are accepted: decoding gives them back.
    virtual void encode(std::string_view text, std::vector<int32_t>& ids) = 0;
};

/// Text to token ids and back. Immutable, so one object serves all threads.
class Tokenizer {
  public:
    virtual ~Tokenizer() = default;

    /// The kind, as written in the tokenizer's description file: "byte", "byte_level_bpe".
    virtual std::string name() const = 0;
    /// Ids are 0 .. vocab_size() - 1.
    virtual int32_t vocab_size() const = 0;
    /// The token that ends a document; none in the plain 256-byte vocabulary.
    virtual std::optional<int32_t> end_of_document() const = 0;
    /// The bytes that a token stands for (its text for a special token). An id out of range is an
    /// error of kind data.
    virtual std::string_view token_bytes(int32_t id) const = 0;
    virtual std::unique_ptr<Encoder> make_encoder(
        SpecialText special = SpecialText::plain) const = 0;
    /// The files from which `load_tokenizer` makes an equal tokenizer.
    virtual TokenizerFiles serialize() const = 0;
    /// 32 hexadecimal digits that depend on meaning only (tokens, merges, special tokens), not on
    /// how the files are laid out. Token shards and checkpoints record it.
    virtual std::string content_hash() const = 0;

    std::vector<int32_t> encode(std::string_view text,
                                SpecialText special = SpecialText::plain) const;
    /// The bytes of `ids`. They may end inside a character: see StreamDecoder.
    std::string decode(const std::vector<int32_t>& ids) const;
};

/// The name of the description file: {"kind": ..., "special_tokens": [...], ...}. A folder without
/// it that has vocab.json and merges.txt is read as GPT-2's layout.
inline constexpr const char* tokenizer_description_file = "plinth_tokenizer.json";

/// Makes a tokenizer from its files. `where` (a folder, a checkpoint) begins every error message;
/// errors are of kind data and name file and line or token.
std::unique_ptr<Tokenizer> load_tokenizer(const TokenizerFiles& files, const std::string& where);

/// Makes the tokenizer that a configuration names: "byte" (256 bytes and an end token), "byte256"
/// (no end token) or a folder.
std::unique_ptr<Tokenizer> load_tokenizer(io::FileSystem& files, const std::string& name);

/// Writes `tokenizer.serialize()` into a folder, which is created.
void save_tokenizer(io::FileSystem& files, const Tokenizer& tokenizer, const std::string& folder);

/// Turns generated ids into text that a terminal can show at once: never part of a character, and
/// U+FFFD for bytes that cannot become one.
class StreamDecoder {
  public:
    explicit StreamDecoder(const Tokenizer& tokenizer) : tokenizer_(&tokenizer) {}
    /// The text that became complete with this token; often empty in scripts beyond Latin.
    std::string push(int32_t id);
    /// What was still waiting for its last byte, replaced by U+FFFD.
    std::string finish();

  private:
    const Tokenizer* tokenizer_;
    std::string pending_;
};

}  // namespace plinth::core::data
