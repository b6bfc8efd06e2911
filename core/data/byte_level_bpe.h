// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "core/data/bpe_model.h"
#include "core/data/pretokenizer.h"
#include "core/data/special_tokens.h"
#include "core/data/tokenizer.h"

namespace plinth::core::data {

/// GPT-2's tokenizer: text is cut by `gpt2_pattern`, each piece starts as single bytes, and the
/// adjacent pair of the lowest rank (the leftmost of equal ones) is merged until none is left.
/// Source: Radford et al. 2019, section 2.2.
class ByteLevelBpe : public Tokenizer {
  public:
    static constexpr const char* kind = "byte_level_bpe";

    explicit ByteLevelBpe(BpeModel model);

    std::string name() const override { return kind; }
    int32_t vocab_size() const override { return static_cast<int32_t>(model_.tokens.size()); }
    std::optional<int32_t> end_of_document() const override { return end_of_document_; }
    std::string_view token_bytes(int32_t id) const override;
    std::unique_ptr<Encoder> make_encoder(SpecialText special) const override;
    TokenizerFiles serialize() const override { return write_bpe_model(model_); }
    std::string content_hash() const override;

    const BpeModel& model() const { return model_; }

  private:
    friend class BpeEncoder;

    /// What a pair of tokens becomes, and how early. `rank` is `no_merge` for pairs that stay.
    struct Merged {
        int32_t rank;
        int32_t result;
    };
    static constexpr int32_t no_merge = INT32_MAX;
    Merged find_merge(int32_t left, int32_t right) const;

    /// Open addressing with linear probing, at most half full; an empty slot has no_merge.
    struct Slot {
        uint64_t pair = 0;
        Merged merged{no_merge, 0};
    };
    size_t slot_of(uint64_t pair) const { return (pair * 0x9E3779B97F4A7C15u) >> shift_; }

    BpeModel model_;
    PreTokenizer pretokenizer_;
    SpecialTokens special_;
    std::optional<int32_t> end_of_document_;
    std::vector<Slot> slots_;
    int shift_ = 0;
};

}  // namespace plinth::core::data
