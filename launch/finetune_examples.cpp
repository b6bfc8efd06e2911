// SPDX-License-Identifier: Apache-2.0
#include "launch/finetune_examples.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <set>

#include "core/data/cleaning.h"
#include "core/data/text_source.h"
#include "kernels/runtime/error.h"

namespace plinth::launch {

namespace {

using core::data::Example;
using core::data::TextPair;
using core::data::Tokenizer;

/// An example has a token before the first that carries a loss.
void require_a_token(std::vector<int32_t>& tokens, const Tokenizer& tokenizer, const char* what,
                     const TextPair& pair) {
    if (!tokens.empty()) return;
    REQUIRE(data, tokenizer.end_of_document().has_value(),
            "{}: the {} is empty, and this tokenizer has no end token to stand for it",
            pair.where(), what);
    tokens.push_back(*tokenizer.end_of_document());
}

/// The ids of one text. An encoder carries a cache of megabytes, so one serves all texts of a set.
std::vector<int32_t> encode(core::data::Encoder& encoder, const std::string& text) {
    std::vector<int32_t> ids;
    encoder.encode(text, ids);
    return ids;
}

/// Keeps the last `most` tokens; true if there were more.
bool cut_left(std::vector<int32_t>& tokens, int64_t most) {
    const auto excess = static_cast<int64_t>(tokens.size()) - most;
    if (excess <= 0) return false;
    tokens.erase(tokens.begin(), tokens.begin() + excess);
    return true;
}

Example joined(std::vector<int32_t> prompt, const std::vector<int32_t>& response) {
    Example example{.tokens = std::move(prompt), .is_label = {}};
    example.is_label.assign(example.tokens.size(), 0);
    example.tokens.insert(example.tokens.end(), response.begin(), response.end());
    example.is_label.resize(example.tokens.size(), 1);
    return example;
}

int32_t class_of(const TextPair& pair, const std::vector<std::string>& labels) {
    const auto found = std::find(labels.begin(), labels.end(), pair.second);
    REQUIRE(data, found != labels.end(),
            "{}: label \"{}\" is none of the model's: {}; see finetune.labels", pair.where(),
            pair.second, fmt::join(labels, ", "));
    return static_cast<int32_t>(found - labels.begin());
}

}  // namespace

ExampleSet instruction_examples(const std::vector<TextPair>& pairs, const Tokenizer& tokenizer,
                                int64_t window) {
    const auto encoder = tokenizer.make_encoder();
    ExampleSet set;
    for (const TextPair& pair : pairs) {
        std::vector<int32_t> prompt = encode(*encoder, pair.first);
        std::vector<int32_t> response = encode(*encoder, pair.second);
        REQUIRE(data, !response.empty(), "{}: the response is empty", pair.where());
        require_a_token(prompt, tokenizer, "prompt", pair);
        if (const auto end = tokenizer.end_of_document()) response.push_back(*end);
        const auto room = static_cast<size_t>(window);  // a sequence of window + 1, less one token
        bool cut = response.size() > room;
        if (cut) response.resize(room);
        cut |= cut_left(prompt, window + 1 - static_cast<int64_t>(response.size()));
        set.cut += cut;
        set.examples.push_back(joined(std::move(prompt), response));
        set.tokens += static_cast<int64_t>(set.examples.back().tokens.size());
    }
    return set;
}

std::vector<std::string> labels_of(const std::vector<TextPair>& pairs) {
    std::set<std::string> labels;
    for (const TextPair& pair : pairs)
        labels.insert(pair.second);
    return {labels.begin(), labels.end()};
}

ExampleSet classification_examples(const std::vector<TextPair>& pairs,
                                   const std::vector<std::string>& labels,
                                   const Tokenizer& tokenizer, int64_t window) {
    const auto encoder = tokenizer.make_encoder();
    ExampleSet set;
    for (const TextPair& pair : pairs) {
        std::vector<int32_t> text = encode(*encoder, pair.first);
        require_a_token(text, tokenizer, "text", pair);
        set.cut += cut_left(text, window);
        set.tokens += static_cast<int64_t>(text.size());
        set.examples.push_back(joined(std::move(text), {class_of(pair, labels)}));
    }
    return set;
}

ExampleSet text_examples(core::io::FileSystem& files, const std::vector<std::string>& inputs,
                         const std::string& key, const std::string& field,
                         const Tokenizer& tokenizer, int64_t window) {
    core::data::TextSourceConfig config;
    config.inputs = inputs;
    config.field = field;
    config.keys.inputs = key;
    core::data::TextSource source(files, config);
    core::data::BadLines bad_lines(config.max_bad_lines);
    const core::data::Cleaner cleaner({});
    const auto encoder = tokenizer.make_encoder();
    ExampleSet set;
    std::vector<int32_t> row;
    core::data::RawDocument document;
    while (source.next(document)) {
        std::string problem;
        auto text = core::data::take_text(document, field, problem);
        if (!text) {
            bad_lines.add(document, problem);
            continue;
        }
        if (cleaner.clean(*text)) continue;
        set.bytes += static_cast<int64_t>(text->size());
        encoder->encode(*text, row);
        if (const auto end = tokenizer.end_of_document()) row.push_back(*end);
    }
    set.tokens = static_cast<int64_t>(row.size());
    for (int64_t begin = 0; begin + 1 < set.tokens; begin += window) {
        // The last token of a window is the first of the next, which predicts what follows it.
        const int64_t end = std::min(set.tokens, begin + window + 1);
        Example example{.tokens = {row.begin() + begin, row.begin() + end}, .is_label = {}};
        example.is_label.assign(example.tokens.size(), 1);
        set.examples.push_back(std::move(example));
    }
    return set;
}

}  // namespace plinth::launch
