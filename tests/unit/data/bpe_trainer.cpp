// SPDX-License-Identifier: Apache-2.0
#include "core/data/bpe_trainer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>

#include "core/data/byte_level_bpe.h"
#include "tests/support/expect_error.h"

namespace plinth::core::data {
namespace {

/// The definition, word by word: count all pairs afresh before each merge.
std::vector<std::string> naive_merges(const std::vector<std::string>& texts, size_t merges) {
    const PreTokenizer pretokenizer(gpt2_pattern);
    PreTokenizer::Splitter splitter(pretokenizer);
    const auto order = byte_level_order();
    std::vector<std::string> tokens;
    for (const unsigned char byte : order)
        tokens.emplace_back(1, static_cast<char>(byte));
    std::vector<std::vector<int>> words;
    for (const std::string& text : texts) {
        splitter.split(text, [&](std::string_view piece) {
            auto& word = words.emplace_back();
            for (const char c : piece) {
                const auto byte = static_cast<unsigned char>(c);
                word.push_back(
                    static_cast<int>(std::find(order.begin(), order.end(), byte) - order.begin()));
            }
        });
    }
    std::vector<std::string> result;
    for (size_t step = 0; step < merges; ++step) {
        std::map<std::pair<int, int>, int64_t> counts;
        for (const auto& word : words) {
            for (size_t i = 0; i + 1 < word.size(); ++i)
                ++counts[{word[i], word[i + 1]}];
        }
        std::pair<int, int> best{};
        int64_t most = 0;
        for (const auto& [pair, count] : counts) {  // in increasing order of ids
            if (count > most) {
                most = count;
                best = pair;
            }
        }
        if (most < 2) break;
        const std::string joined =
            tokens[static_cast<size_t>(best.first)] + tokens[static_cast<size_t>(best.second)];
        auto id =
            static_cast<int>(std::find(tokens.begin(), tokens.end(), joined) - tokens.begin());
        if (id == static_cast<int>(tokens.size())) tokens.push_back(joined);
        result.push_back(tokens[static_cast<size_t>(best.first)] + "|" +
                         tokens[static_cast<size_t>(best.second)]);
        for (auto& word : words) {
            std::vector<int> merged;
            for (size_t i = 0; i < word.size(); ++i) {
                if (i + 1 < word.size() && word[i] == best.first && word[i + 1] == best.second) {
                    merged.push_back(id);
                    ++i;
                } else {
                    merged.push_back(word[i]);
                }
            }
            word = merged;
        }
    }
    return result;
}

std::vector<std::string> merges_of(const BpeModel& model) {
    std::vector<std::string> result;
    for (const BpeModel::Merge& merge : model.merges) {
        result.push_back(model.tokens[static_cast<size_t>(merge.left)] + "|" +
                         model.tokens[static_cast<size_t>(merge.right)]);
    }
    return result;
}

std::vector<std::string> random_texts(uint64_t seed) {
    std::mt19937_64 random(seed);
    std::vector<std::string> texts(20);
    for (std::string& text : texts) {
        for (int i = 0; i < 100; ++i)
            text += "aaabbc \u00e9"[random() % 8];
    }
    return texts;
}

TEST(BpeTrainer, AgreesWithTheDefinition) {
    // Three letters and their runs: ties and overlapping pairs at every step.
    for (uint64_t seed = 0; seed < 10; ++seed) {
        const std::vector<std::string> texts = random_texts(seed);
        BpeTrainer trainer({.vocab_size = 257 + 120});
        for (const std::string& text : texts)
            trainer.add(text);
        const std::vector<std::string> trained = merges_of(trainer.train());
        EXPECT_GE(trained.size(), 80u);
        EXPECT_EQ(trained, naive_merges(texts, trained.size())) << "seed " << seed;
        EXPECT_NE(trained, naive_merges(random_texts(seed + 100), trained.size()));
    }
}

TEST(BpeTrainer, TheModelIsATokenizer) {
    BpeTrainer trainer({.vocab_size = 300});
    std::string text;
    for (int i = 0; i < 50; ++i)
        text += "the cat sat on the mat. ";
    trainer.add(text);
    const ByteLevelBpe tokenizer(trainer.train());
    EXPECT_LE(tokenizer.vocab_size(), 300);
    EXPECT_EQ(tokenizer.end_of_document(), tokenizer.vocab_size() - 1);
    EXPECT_EQ(tokenizer.decode(tokenizer.encode(text)), text);
    EXPECT_LT(tokenizer.encode(text).size(), text.size() / 3);
    const auto copy = load_tokenizer(tokenizer.serialize(), "memory");
    EXPECT_EQ(copy->content_hash(), tokenizer.content_hash());
    EXPECT_EQ(trainer.report().words, 50 * 8 - 49);
}

TEST(BpeTrainer, MemoryIsBoundedAndTheLossIsReported) {
    BpeTrainer trainer({.vocab_size = 400, .memory = 1 << 20});
    std::mt19937_64 random(3);
    int64_t rare = 0;
    for (int i = 0; i < 40'000; ++i) {
        std::string word = " ";
        for (int k = 0; k < 8; ++k)
            word.push_back(static_cast<char>('a' + random() % 26));
        trainer.add(word + " frequent");
        ++rare;
    }
    const BpeModel model = trainer.train();
    const BpeTrainerReport& report = trainer.report();
    EXPECT_GT(report.cuts, 0);
    EXPECT_GT(report.dropped_occurrences, 0);
    EXPECT_LE(report.dropped_occurrences, rare);
    EXPECT_LT(report.distinct_words, 10'000);
    EXPECT_EQ(model.tokens.size(), 400u);
    EXPECT_NE(std::find(model.tokens.begin(), model.tokens.end(), " frequent"), model.tokens.end());
}

TEST(BpeTrainer, RefusesWhatCannotBe) {
    test::expect_error(
        ErrorKind::config, [] { BpeTrainer({.vocab_size = 256}); }, "vocab_size");
    test::expect_error(
        ErrorKind::data, [] { BpeTrainer({}).train(); }, "no text");
}

}  // namespace
}  // namespace plinth::core::data
