// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/data/tokenizer.h"

namespace plinth::core::data {

inline constexpr const char* bpe_vocab_file = "vocab.json";
inline constexpr const char* bpe_merges_file = "merges.txt";

/// A byte-level byte-pair vocabulary: what a trainer makes, GPT-2's two files hold and the encoder
/// runs.
struct BpeModel {
    /// `left` followed by `right` becomes `result`, whose bytes are theirs joined.
    struct Merge {
        int32_t left, right, result;
        bool operator==(const Merge&) const = default;
    };
    std::vector<std::string> tokens;          ///< bytes by id; the text of special tokens
    std::vector<Merge> merges;                ///< by rank: the first applies first
    std::vector<std::string> special_tokens;  ///< the first ends a document
    std::array<int32_t, 256> byte_ids{};      ///< the token of each single byte

    bool operator==(const BpeModel&) const = default;
};

/// The printable writing of bytes in vocab.json and merges.txt: bytes 21..7E, A1..AC and AE..FF are
/// the code points of the same number, the other 68 in increasing order U+0100 .. U+0143.
std::string to_byte_level_text(std::string_view bytes);
/// The reverse; none when the text has a character that stands for no byte.
std::optional<std::string> from_byte_level_text(std::string_view text);
/// The 256 bytes in the order of their code points, which is the order of GPT-2's first ids.
std::array<unsigned char, 256> byte_level_order();

/// Reads vocab.json (a JSON object, token -> id) and merges.txt (one pair a line, after an optional
/// "#version" line). Ids must be 0 .. n-1 without gaps, every single byte must have one, and each
/// merge must join two tokens into a third. `special_tokens` null: "<|endoftext|>" if the
/// vocabulary has it. Errors are of kind data and begin with the path and the line or token.
BpeModel parse_bpe_model(std::string_view vocab_json, const std::string& vocab_path,
                         std::string_view merges_text, const std::string& merges_path,
                         const std::vector<std::string>* special_tokens = nullptr);

/// vocab.json, merges.txt and the description file of the model.
TokenizerFiles write_bpe_model(const BpeModel& model);

}  // namespace plinth::core::data
