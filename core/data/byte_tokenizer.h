// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "core/data/tokenizer.h"

namespace plinth::core::data {

/// One token a byte: ids 0 .. 255, and 256 ends a document unless `end_token` is false (a
/// vocabulary of exactly 256, for models that never see document boundaries).
class ByteTokenizer : public Tokenizer {
  public:
    static constexpr const char* kind = "byte";

    explicit ByteTokenizer(bool end_token);

    std::string name() const override { return kind; }
    int32_t vocab_size() const override { return end_token_ ? 257 : 256; }
    std::optional<int32_t> end_of_document() const override;
    std::string_view token_bytes(int32_t id) const override;
    std::unique_ptr<Encoder> make_encoder(SpecialText special) const override;
    TokenizerFiles serialize() const override;
    std::string content_hash() const override;

  private:
    bool end_token_;
    std::string bytes_;  ///< all 256, so that token_bytes can point at one
};

}  // namespace plinth::core::data
