// SPDX-License-Identifier: Apache-2.0
#include "core/data/byte_entropy.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "core/data/prepare.h"
#include "core/io/file.h"
#include "tests/support/temporary_folder.h"

namespace plinth::core::data {
namespace {

double entropy(const std::vector<std::string>& documents) {
    ByteBigrams bigrams;
    for (const std::string& document : documents) {
        bigrams.begin_document();
        bigrams.add(document);
    }
    return bigrams.conditional_entropy();
}

/// Oracle: the joint entropy of pairs minus the entropy of their first bytes.
double joint_minus_marginal(const std::vector<std::string>& documents) {
    std::map<std::string, double> pairs, firsts;
    double all = 0;
    for (const std::string& document : documents)
        for (size_t i = 0; i + 1 < document.size(); ++i) {
            ++pairs[document.substr(i, 2)];
            ++firsts[document.substr(i, 1)];
            ++all;
        }
    const auto bits = [all](const std::map<std::string, double>& counts) {
        double sum = 0;
        for (const auto& [text, count] : counts)
            sum -= count / all * std::log2(count / all);
        return sum;
    };
    return bits(pairs) - bits(firsts);
}

std::vector<std::string> random_documents() {
    std::mt19937 random(7);
    std::vector<std::string> documents(20);
    for (std::string& document : documents)
        for (int i = 0; i < 300; ++i)
            document += static_cast<char>(0xF0 + (random() % (document.size() % 3 + 2)));
    return documents;
}

TEST(ByteEntropy, KnownTexts) {
    EXPECT_EQ(entropy({"abababab"}), 0.0);    // the next byte is certain
    EXPECT_EQ(entropy({"aabba"}), 1.0);       // aa, ab, bb, ba: once each
    EXPECT_EQ(entropy({"a", "b", ""}), 0.0);  // no pairs
}

TEST(ByteEntropy, IsJointMinusMarginal) {
    const auto documents = random_documents();
    EXPECT_NEAR(entropy(documents), joint_minus_marginal(documents), 1e-12);
}

TEST(ByteEntropy, PairsDoNotCrossDocuments) {
    EXPECT_EQ(entropy({"ab", "ac"}), 1.0);
    EXPECT_NE(entropy({"abac"}), 1.0);  // what would come out if they did
}

TEST(ByteEntropy, OfAPreparedSplitIsThatOfItsDocuments) {
    const test::TemporaryFolder folder;
    io::FileSystem& files = io::posix();
    // Longer than a window of the reader, so that a document lies across its edge.
    std::mt19937 random(11);
    std::vector<std::string> documents(3, std::string(700'000, ' '));
    for (std::string& document : documents)
        for (char& c : document)
            c = static_cast<char>('a' + random() % 5);
    PrepareConfig config;
    for (size_t i = 0; i < documents.size(); ++i) {
        config.source.inputs.push_back(folder / std::to_string(i) + ".txt");
        io::write_atomically(files, config.source.inputs.back(), documents[i]);
    }
    config.output = folder / "out";
    config.held_out = 0;
    for (const char* tokenizer : {"byte", "byte256"}) {  // with an end token, and without
        config.tokenizer = tokenizer;
        config.output = folder / tokenizer;
        prepare(config, files);
        const auto split = Dataset::open(files, config.output, "train");
        const ByteBigrams counted =
            count_byte_bigrams(*split, *load_tokenizer(files, std::string(tokenizer)));
        EXPECT_EQ(counted.pairs(), 3 * 699'999) << tokenizer;
        EXPECT_NEAR(counted.conditional_entropy(), joint_minus_marginal(documents), 1e-12);
    }
}

}  // namespace
}  // namespace plinth::core::data
