// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/data/source.h"
#include "core/data/tokenizer.h"
#include "core/io/file.h"
#include "launch/config/stage_config.h"

namespace plinth::launch {

/// Documents one after the other in a row of tokens, each closed by the end-of-document token: what
/// windows are cut from. Its source's samples begin at any token.
struct TokenRow {
    std::string name;
    std::shared_ptr<const core::data::Source> source;
    int64_t tokens = 0;
};

/// A split of a data set of shards. Refused by name (kind data) when another tokenizer made it.
TokenRow open_shards(core::io::FileSystem& files, const std::string& folder,
                     const std::string& split, const core::data::Tokenizer& tokenizer);

/// Raw text, cleaned as `data prepare` does by default (UTF-8, controls, NFC; nothing is dropped as
/// a duplicate) and tokenised into memory, up to `most_tokens` and the document that reaches them.
/// No text is an error of kind data.
TokenRow read_text_row(core::io::FileSystem& files, const std::string& input, EvaluateFormat format,
                       const std::string& field, const core::data::Tokenizer& tokenizer,
                       int64_t most_tokens);

/// A row in memory.
class MemoryRow final : public core::data::Source {
  public:
    /// `document_begins` ascend from 0.
    MemoryRow(std::string name, std::vector<int32_t> tokens, std::vector<int64_t> document_begins);

    core::data::BlendSource describe() const override;
    /// `ref.unit` is the first token; the sample and its last target must lie inside the row.
    void fill(const core::data::SampleRef& ref, bool document_mask,
              const core::data::SampleView& view) const override;

  private:
    std::string name_;
    std::vector<int32_t> tokens_;
    std::vector<int64_t> begins_;
};

}  // namespace plinth::launch
