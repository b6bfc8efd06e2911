// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "core/data/labelled_text.h"
#include "core/data/source.h"
#include "core/data/tokenizer.h"

namespace plinth::launch {

/// Tokenised examples and what was lost on the way.
struct ExampleSet {
    std::vector<core::data::Example> examples;
    int64_t cut = 0;    ///< examples that were longer than the window
    int64_t bytes = 0;  ///< of text; 0 where bits a byte mean nothing
    int64_t tokens = 0;
};

/// Prompt, response and end token, with the loss on response and end. What is longer than `window`
/// loses the left of its prompt, then the right of its response. An empty prompt becomes the end
/// token, which stands before every document. An empty response is an error of kind data.
ExampleSet instruction_examples(const std::vector<core::data::TextPair>& pairs,
                                const core::data::Tokenizer& tokenizer, int64_t window);

/// The labels that occur as second texts, sorted bytewise.
std::vector<std::string> labels_of(const std::vector<core::data::TextPair>& pairs);

/// Text and class id: the id is the target at the text's last token. What is longer than `window`
/// loses its left; an empty text becomes the end token. A label that `labels` lacks is an error of
/// kind data.
ExampleSet classification_examples(const std::vector<core::data::TextPair>& pairs,
                                   const std::vector<std::string>& labels,
                                   const core::data::Tokenizer& tokenizer, int64_t window);

/// Documents of raw text (files, folders, patterns; plain or JSONL) end to end, each closed by the
/// end token, cut into windows; `key` names the inputs in messages. Every token but the first
/// carries a loss. All of it is held in memory: `plinth data prepare` serves what does not fit.
ExampleSet text_examples(core::io::FileSystem& files, const std::vector<std::string>& inputs,
                         const std::string& key, const std::string& field,
                         const core::data::Tokenizer& tokenizer, int64_t window);

}  // namespace plinth::launch
