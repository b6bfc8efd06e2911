// SPDX-License-Identifier: Apache-2.0
#include "core/data/bpe_trainer.h"

#include <algorithm>
#include <queue>
#include <unordered_set>

#include "kernels/runtime/error.h"

namespace plinth::core::data {

namespace {

/// What a word costs in the table beyond its letters (node, string, bucket) and, later, in the
/// pair index: measured on English, rounded up.
constexpr int64_t word_overhead = 96;
/// Training needs, for each byte of a distinct word, its token and an entry of the pair index.
constexpr int64_t training_bytes_per_letter = 12;

int64_t cost_of(std::string_view word) {
    return word_overhead + static_cast<int64_t>(word.size()) * training_bytes_per_letter;
}

struct PairHash {
    size_t operator()(uint64_t pair) const {
        return static_cast<size_t>((pair * 0x9E3779B97F4A7C15u) >> 20);
    }
};

uint64_t pair_of(int32_t left, int32_t right) {
    return static_cast<uint64_t>(left) << 32 | static_cast<uint64_t>(right);
}

/// The words as token sequences, the counts of adjacent pairs, and the merging of one pair in all
/// words that hold it.
class PairTable {
  public:
    /// A pair may stand in the queue with an old count; it is corrected when it comes up.
    struct Entry {
        int64_t count;
        uint64_t pair;
        /// Most frequent first, then the smaller ids.
        bool operator<(const Entry& other) const {
            return count != other.count ? count < other.count : pair > other.pair;
        }
    };

    explicit PairTable(const BpeModel& model) : model_(model) {}

    void add_word(std::string_view word, int64_t count) {
        const auto index = static_cast<uint32_t>(words_.size());
        words_.push_back({tokens_.size(), static_cast<uint32_t>(word.size()), count});
        for (const char c : word) {
            tokens_.push_back(model_.byte_ids[static_cast<unsigned char>(c)]);
        }
        const int32_t* tokens = tokens_.data() + words_.back().begin;
        for (size_t i = 0; i + 1 < word.size(); ++i) {
            change(pair_of(tokens[i], tokens[i + 1]), count, index);
        }
    }

    void fill_queue() {
        for (const auto& [pair, where] : pairs_)
            queue_.push({where.count, pair});
    }

    /// The next pair to merge, or none that occurs `least` times.
    bool pop(int64_t least, uint64_t& pair) {
        while (!queue_.empty()) {
            const Entry top = queue_.top();
            queue_.pop();
            const auto found = pairs_.find(top.pair);
            if (found == pairs_.end()) continue;
            const int64_t now = found->second.count;
            if (now != top.count) {
                if (now < top.count && now > 0) queue_.push({now, top.pair});
                continue;  // a pair that gained was queued again when it did
            }
            if (now < least) return false;
            pair = top.pair;
            return true;
        }
        return false;
    }

    void merge(uint64_t pair, int32_t result) {
        auto node = pairs_.extract(pair);
        std::vector<uint32_t> holders = std::move(node.mapped().words);
        std::sort(holders.begin(), holders.end());
        holders.erase(std::unique(holders.begin(), holders.end()), holders.end());
        grown_.clear();
        for (const uint32_t word : holders)
            merge_in_word(word, pair, result);
        for (const uint64_t grown : grown_)
            queue_.push({pairs_[grown].count, grown});
    }

  private:
    struct Word {
        size_t begin;
        uint32_t length;
        int64_t count;
    };
    struct Where {
        int64_t count = 0;
        std::vector<uint32_t> words;  ///< may name a word twice, or one that lost the pair
    };

    void change(uint64_t pair, int64_t difference, uint32_t word) {
        Where& where = pairs_[pair];
        where.count += difference;
        if (difference > 0 && (where.words.empty() || where.words.back() != word)) {
            where.words.push_back(word);
        }
    }

    void lose(uint64_t pair, int64_t count) {
        const auto found = pairs_.find(pair);
        if (found != pairs_.end()) found->second.count -= count;  // absent: the pair being merged
    }

    void gain(uint64_t pair, int64_t count, uint32_t word) {
        change(pair, count, word);
        grown_.insert(pair);
    }

    /// Replaces the pair from left to right, in place.
    void merge_in_word(uint32_t index, uint64_t pair, int32_t result) {
        Word& word = words_[index];
        int32_t* tokens = tokens_.data() + word.begin;
        const auto left = static_cast<int32_t>(pair >> 32);
        const auto right = static_cast<int32_t>(pair & 0xFFFFFFFFu);
        uint32_t out = 0;
        for (uint32_t in = 0; in < word.length; ++in) {
            if (tokens[in] != left || in + 1 == word.length || tokens[in + 1] != right) {
                tokens[out++] = tokens[in];
                continue;
            }
            // The neighbour on the left is final, the one on the right is not yet: if it is merged
            // next, its new pair is lost again there.
            if (out > 0) {
                lose(pair_of(tokens[out - 1], left), word.count);
                gain(pair_of(tokens[out - 1], result), word.count, index);
            }
            if (in + 2 < word.length) {
                lose(pair_of(right, tokens[in + 2]), word.count);
                gain(pair_of(result, tokens[in + 2]), word.count, index);
            }
            tokens[out++] = result;
            ++in;
        }
        word.length = out;
    }

    const BpeModel& model_;
    std::vector<Word> words_;
    std::vector<int32_t> tokens_;
    std::unordered_map<uint64_t, Where, PairHash> pairs_;
    std::priority_queue<Entry> queue_;
    std::unordered_set<uint64_t, PairHash> grown_;
};

BpeModel byte_model() {
    BpeModel model;
    for (const unsigned char byte : byte_level_order()) {
        model.byte_ids[byte] = static_cast<int32_t>(model.tokens.size());
        model.tokens.emplace_back(1, static_cast<char>(byte));
    }
    return model;
}

}  // namespace

void BpeTrainerConfig::validate() const {
    const auto least = 256 + static_cast<int64_t>(special_tokens.size());
    REQUIRE(config, vocab_size >= least && vocab_size <= int64_t{1} << 24,
            "vocab_size: must be {} (bytes and special tokens) to 16777216, got {}", least,
            vocab_size);
    REQUIRE(config, min_frequency >= 1, "min_frequency: must be positive, got {}", min_frequency);
    REQUIRE(config, memory >= int64_t{1} << 20, "memory: must be at least 1 MiB, got {} bytes",
            memory);
    for (const std::string& token : special_tokens) {
        REQUIRE(config, token.size() > 1, "special_tokens: \"{}\" is too short", token);
    }
}

BpeTrainer::BpeTrainer(BpeTrainerConfig config)
    : config_(std::move(config)), pretokenizer_(gpt2_pattern), splitter_(pretokenizer_) {
    config_.validate();
}

void BpeTrainer::add(std::string_view text) {
    report_.bytes += static_cast<int64_t>(text.size());
    splitter_.split(text, [this](std::string_view word) {
        ++report_.words;
        const auto found = counts_.find(word);
        if (found != counts_.end()) {
            ++found->second;
            return;
        }
        counts_.emplace(word, 1);
        table_bytes_ += cost_of(word);
        if (table_bytes_ > config_.memory) cut_rare_words();
    });
}

/// Halves the table: all words up to the smallest count that makes enough room go.
void BpeTrainer::cut_rare_words() {
    std::unordered_map<int64_t, int64_t> bytes_of_count;
    for (const auto& [word, count] : counts_)
        bytes_of_count[count] += cost_of(word);
    std::vector<std::pair<int64_t, int64_t>> by_count(bytes_of_count.begin(), bytes_of_count.end());
    std::sort(by_count.begin(), by_count.end());
    int64_t threshold = 0;
    int64_t left = table_bytes_;
    for (const auto& [count, bytes] : by_count) {
        if (left <= config_.memory / 2) break;
        threshold = count;
        left -= bytes;
    }
    std::erase_if(counts_, [&](const auto& entry) {
        if (entry.second > threshold) return false;
        report_.dropped_occurrences += entry.second;
        return true;
    });
    table_bytes_ = left;
    ++report_.cuts;
    report_.most_lost_per_word += threshold;
}

BpeModel BpeTrainer::train(const std::function<void(int64_t, int64_t)>& progress) {
    REQUIRE(data, report_.words > 0, "tokenizer training: the corpus holds no text");
    report_.distinct_words = static_cast<int64_t>(counts_.size());
    BpeModel model = byte_model();
    PairTable table(model);
    for (const auto& [word, count] : counts_)
        table.add_word(word, count);
    counts_ = {};
    table.fill_queue();

    // Two pairs may spell the same bytes ("a" + "bc", "ab" + "c"): they share the token.
    std::unordered_map<std::string, int32_t> ids;
    for (size_t id = 0; id < model.tokens.size(); ++id) {
        ids.emplace(model.tokens[id], static_cast<int32_t>(id));
    }
    const auto wanted = static_cast<size_t>(config_.vocab_size) - config_.special_tokens.size();
    const size_t step = std::max<size_t>((wanted - model.tokens.size()) / 100, 1);
    uint64_t pair = 0;
    while (model.tokens.size() < wanted && table.pop(config_.min_frequency, pair)) {
        const auto left = static_cast<int32_t>(pair >> 32);
        const auto right = static_cast<int32_t>(pair & 0xFFFFFFFFu);
        std::string joined =
            model.tokens[static_cast<size_t>(left)] + model.tokens[static_cast<size_t>(right)];
        const auto [known, is_new] =
            ids.emplace(std::move(joined), static_cast<int32_t>(model.tokens.size()));
        if (is_new) model.tokens.push_back(known->first);
        model.merges.push_back({left, right, known->second});
        table.merge(pair, known->second);
        if (progress && model.merges.size() % step == 0) {
            progress(static_cast<int64_t>(model.tokens.size()), static_cast<int64_t>(wanted));
        }
    }
    report_.merges = static_cast<int64_t>(model.merges.size());
    for (const std::string& token : config_.special_tokens) {
        // A learnt token could be written like this one; the special one needs its name.
        REQUIRE(config, !ids.contains(token),
                "special_tokens: \"{}\" occurs so often in the corpus that it became a token; "
                "remove it from the text or choose another",
                token);
        model.tokens.push_back(token);
        model.special_tokens.push_back(token);
    }
    return model;
}

}  // namespace plinth::core::data
