// SPDX-License-Identifier: Apache-2.0
#include "launch/finetune_examples.h"

#include <gtest/gtest.h>

#include <fstream>

#include "core/data/byte_tokenizer.h"
#include "tests/support/expect_error.h"
#include "tests/support/temporary_folder.h"

namespace plinth::launch {
namespace {

using core::data::load_tokenizer;
using test::expect_error;

std::vector<int32_t> bytes(const std::string& text) {
    return {text.begin(), text.end()};
}
std::vector<int32_t> with_end(const std::string& text) {
    auto tokens = bytes(text);
    tokens.push_back(256);
    return tokens;
}

class FinetuneExamples : public ::testing::Test {
  protected:
    const std::shared_ptr<const std::string> path_ =
        std::make_shared<const std::string>("in/a.jsonl");
    std::unique_ptr<core::data::Tokenizer> byte_ = load_tokenizer(core::io::posix(), "byte");
    std::unique_ptr<core::data::Tokenizer> endless_ = load_tokenizer(core::io::posix(), "byte256");
};

TEST_F(FinetuneExamples, TheLossOfAnInstructionIsOnResponseAndEnd) {
    const auto set = instruction_examples({{"ab?", "yz"}}, *byte_, 16);
    ASSERT_EQ(set.examples.size(), 1u);
    EXPECT_EQ(set.examples[0].tokens, with_end("ab?yz"));
    EXPECT_EQ(set.examples[0].is_label, (std::vector<uint8_t>{0, 0, 0, 1, 1, 1}));
    EXPECT_EQ(set.cut, 0);
    EXPECT_EQ(set.tokens, 6);

    // What training sees: targets only where the next token belongs to the response.
    const core::data::ExampleSource source("x", set.examples, 8, 256);
    std::vector<int32_t> inputs(8), targets(8), positions(8), documents(8);
    source.fill({}, true, {inputs, targets, positions, documents});
    EXPECT_EQ(inputs, (std::vector<int32_t>{'a', 'b', '?', 'y', 'z', 256, 256, 256}));
    EXPECT_EQ(targets, (std::vector<int32_t>{-100, -100, 'y', 'z', 256, -100, -100, -100}));
    EXPECT_EQ(documents, (std::vector<int32_t>{0, 0, 0, 0, 0, 1, 1, 1}));
}

TEST_F(FinetuneExamples, ALongInstructionLosesTheLeftOfItsPromptThenTheRightOfItsResponse) {
    const auto prompt_cut = instruction_examples({{"abcdef", "yz"}}, *byte_, 5);
    EXPECT_EQ(prompt_cut.examples[0].tokens, with_end("defyz"));
    EXPECT_EQ(prompt_cut.cut, 1);
    const auto both_cut = instruction_examples({{"abc", "uvwxyz"}}, *byte_, 4);
    EXPECT_EQ(both_cut.examples[0].tokens, bytes("cuvwx"));
    EXPECT_EQ(both_cut.examples[0].is_label, (std::vector<uint8_t>{0, 1, 1, 1, 1}));
    EXPECT_EQ(both_cut.cut, 1);
}

TEST_F(FinetuneExamples, AnEmptyPromptIsTheEndTokenAndAnEmptyResponseIsRefused) {
    EXPECT_EQ(instruction_examples({{"", "z"}}, *byte_, 4).examples[0].tokens,
              (std::vector<int32_t>{256, 'z', 256}));
    expect_error(
        ErrorKind::data,
        [&] {
            instruction_examples({{"a", "b"}, {"", "z", path_, 7}}, *endless_, 4);
        },
        "in/a.jsonl:7: the prompt is empty");
    expect_error(
        ErrorKind::data,
        [&] {
            instruction_examples({{"a", "", path_, 7}}, *byte_, 4);
        },
        "in/a.jsonl:7: the response is empty");
}

TEST_F(FinetuneExamples, TheClassIsTheTargetAtTheLastToken) {
    const auto labels = labels_of({{"x", "pos"}, {"y", "neg"}, {"z", "pos"}});
    EXPECT_EQ(labels, (std::vector<std::string>{"neg", "pos"}));
    const auto set = classification_examples({{"abc", "pos"}, {"abcdef", "neg"}, {"", "pos"}},
                                             labels, *byte_, 4);
    EXPECT_EQ(set.examples[0].tokens, (std::vector<int32_t>{'a', 'b', 'c', 1}));
    EXPECT_EQ(set.examples[0].is_label, (std::vector<uint8_t>{0, 0, 0, 1}));
    EXPECT_EQ(set.examples[1].tokens, (std::vector<int32_t>{'c', 'd', 'e', 'f', 0}));
    EXPECT_EQ(set.examples[2].tokens, (std::vector<int32_t>{256, 1}));
    EXPECT_EQ(set.cut, 1);
    expect_error(
        ErrorKind::data,
        [&] {
            classification_examples({{"a", "odd", path_, 7}}, labels, *byte_, 4);
        },
        "in/a.jsonl:7: label \"odd\"", "neg, pos");
}

/// Counts its encoders, each of which may carry a cache of megabytes.
class CountingTokenizer : public core::data::ByteTokenizer {
  public:
    CountingTokenizer() : ByteTokenizer(true) {}
    std::unique_ptr<core::data::Encoder> make_encoder(
        core::data::SpecialText special) const override {
        ++encoders;
        return ByteTokenizer::make_encoder(special);
    }
    mutable int encoders = 0;
};

TEST_F(FinetuneExamples, OneEncoderServesAllExamples) {
    const std::vector<core::data::TextPair> pairs = {{"a", "x"}, {"b", "y"}, {"c", "x"}};
    const CountingTokenizer tokenizer;
    classification_examples(pairs, {"x", "y"}, tokenizer, 4);
    EXPECT_EQ(tokenizer.encoders, 1);
    instruction_examples(pairs, tokenizer, 4);
    EXPECT_EQ(tokenizer.encoders, 2);
}

TEST_F(FinetuneExamples, TextIsCutIntoWindowsThatShareOneToken) {
    const test::TemporaryFolder folder;
    std::ofstream(folder / "a.txt") << "abcdefg";
    std::ofstream(folder / "b.txt") << "hi";
    const auto set = text_examples(core::io::posix(), {folder / "*.txt"}, "key", "text", *byte_, 4);
    ASSERT_EQ(set.examples.size(), 3u);
    EXPECT_EQ(set.examples[0].tokens, bytes("abcde"));
    EXPECT_EQ(set.examples[1].tokens, (std::vector<int32_t>{'e', 'f', 'g', 256, 'h'}));
    EXPECT_EQ(set.examples[2].tokens, (std::vector<int32_t>{'h', 'i', 256}));
    EXPECT_EQ(set.bytes, 9);
    EXPECT_EQ(set.tokens, 11);
    for (const auto& example : set.examples)
        EXPECT_EQ(example.is_label, std::vector<uint8_t>(example.tokens.size(), 1));
}

}  // namespace
}  // namespace plinth::launch
