// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/data/bpe_model.h"
#include "core/data/pretokenizer.h"

namespace plinth::core::data {

struct BpeTrainerConfig {
    int64_t vocab_size = 32768;  ///< 256 bytes, the merges' results and the special tokens
    int64_t min_frequency = 2;   ///< rarer pairs are not merged
    std::vector<std::string> special_tokens{"<|endoftext|>"};  ///< the first ends a document
    int64_t memory = int64_t{512} << 20;  ///< bytes, for the table of words and the training

    /// Errors are of kind config.
    void validate() const;
};

/// What training saw and gave up.
struct BpeTrainerReport {
    int64_t bytes = 0;           ///< of text
    int64_t words = 0;           ///< pieces of the pre-tokeniser, repetitions included
    int64_t distinct_words = 0;  ///< in the table at the end
    /// Rare words that left the table when it outgrew its memory: how often it was cut, the
    /// occurrences that were lost, and the most that any one word can have lost.
    int64_t cuts = 0;
    int64_t dropped_occurrences = 0;
    int64_t most_lost_per_word = 0;
    int64_t merges = 0;  ///< fewer than asked for if no pair reached min_frequency
};

/// Trains a byte-level BPE. Words (pieces of `gpt2_pattern`) are counted with their repetitions;
/// then the most frequent adjacent pair becomes a token, again and again. Equal counts: the pair
/// with the smaller left id, then the smaller right id. Ids are the bytes in the order of
/// `byte_level_order`, then merge results by age, then special tokens: GPT-2's layout. The result
/// depends on the texts, their order only if the word table was cut, and nothing else.
/// Source: Sennrich et al. 2016; Radford et al. 2019.
class BpeTrainer {
  public:
    explicit BpeTrainer(BpeTrainerConfig config);

    /// Counts the words of one document.
    void add(std::string_view text);

    /// `progress(done, wanted)` is called about a hundred times. A corpus with no word is an error
    /// of kind data.
    BpeModel train(const std::function<void(int64_t, int64_t)>& progress = {});

    const BpeTrainerReport& report() const { return report_; }

  private:
    struct TextHash {
        using is_transparent = void;
        size_t operator()(std::string_view text) const {
            return std::hash<std::string_view>{}(text);
        }
    };
    using WordCounts = std::unordered_map<std::string, int64_t, TextHash, std::equal_to<>>;

    void cut_rare_words();

    BpeTrainerConfig config_;
    PreTokenizer pretokenizer_;
    PreTokenizer::Splitter splitter_;
    WordCounts counts_;
    int64_t table_bytes_ = 0;
    BpeTrainerReport report_;
};

}  // namespace plinth::core::data
