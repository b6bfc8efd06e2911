// SPDX-License-Identifier: Apache-2.0
#include "launch/token_row.h"

#include <gtest/gtest.h>

#include "core/data/dataset.h"
#include "kernels/runtime/error.h"
#include "tests/support/expect_error.h"
#include "tests/support/prepared_text.h"
#include "tests/support/temporary_folder.h"

namespace plinth::launch {
namespace {

struct Sample {
    explicit Sample(size_t length)
        : inputs(length), targets(length), positions(length), documents(length) {}
    core::data::SampleView view() { return {inputs, targets, positions, documents}; }
    std::vector<int32_t> inputs, targets, positions, documents;
};

TEST(MemoryRow, FillsWindowsByHand) {
    const MemoryRow row("row", {10, 11, 12, 20, 30, 31, 32, 33}, {0, 3, 4});
    Sample sample(6);
    row.fill({.sample = 0, .unit = 1}, true, sample.view());
    EXPECT_EQ(sample.inputs, (std::vector<int32_t>{11, 12, 20, 30, 31, 32}));
    EXPECT_EQ(sample.targets, (std::vector<int32_t>{12, 20, 30, 31, 32, 33}));
    EXPECT_EQ(sample.positions, (std::vector<int32_t>{0, 1, 0, 0, 1, 2}));
    EXPECT_EQ(sample.documents, (std::vector<int32_t>{0, 0, 1, 2, 2, 2}));
    row.fill({.sample = 0, .unit = 1}, false, sample.view());
    EXPECT_EQ(sample.positions, (std::vector<int32_t>{0, 1, 2, 3, 4, 5}));
    EXPECT_EQ(sample.documents, (std::vector<int32_t>{0, 0, 0, 0, 0, 0}));
    EXPECT_THROW(row.fill({.sample = 0, .unit = 2}, false, sample.view()), Error);
}

class TextRow : public testing::Test {
  protected:
    void write(const std::string& name, const std::string& text) {
        core::io::write_atomically(files_, path(name), text);
    }
    std::string path(const std::string& name) const { return core::io::join(folder_.path(), name); }

    core::io::FileSystem& files_ = core::io::posix();
    test::TemporaryFolder folder_;
    std::unique_ptr<core::data::Tokenizer> tokenizer_ = core::data::load_tokenizer(files_, "byte");
};

TEST_F(TextRow, IsTheTextWithEndTokens) {
    write("two.jsonl", "{\"text\": \"ab\"}\n{\"text\": \"c\"}\n");
    const TokenRow row = read_text_row(files_, path("two.jsonl"), EvaluateFormat::jsonl, "text",
                                       *tokenizer_, INT64_MAX);
    EXPECT_EQ(row.tokens, 5);
    Sample sample(4);
    row.source->fill({.sample = 0, .unit = 0}, true, sample.view());
    EXPECT_EQ(sample.inputs, (std::vector<int32_t>{'a', 'b', 256, 'c'}));
    EXPECT_EQ(sample.targets.back(), 256);
    EXPECT_EQ(sample.documents, (std::vector<int32_t>{0, 0, 0, 1}));
}

TEST_F(TextRow, StopsAtTheLimitAndRefusesWhatIsNoText) {
    write("many.jsonl", "{\"text\": \"ab\"}\n{\"text\": \"c\"}\n{\"text\": \"d\"}\n");
    write("bad.jsonl", "{\"text\": \"ab\"}\n{\"txt\": \"c\"}\n");
    write("empty.txt", "  \n");
    const auto read = [&](const std::string& name, EvaluateFormat format, int64_t most) {
        return read_text_row(files_, path(name), format, "text", *tokenizer_, most);
    };
    EXPECT_EQ(read("many.jsonl", EvaluateFormat::jsonl, 4).tokens, 5);
    EXPECT_THROW(read("bad.jsonl", EvaluateFormat::jsonl, 100), Error);
    EXPECT_THROW(read("empty.txt", EvaluateFormat::text, 100), Error);
    EXPECT_THROW(read("missing.txt", EvaluateFormat::text, 100), Error);
}

// Shards and memory are two readers of one row: they must fill equal windows, and shards of another
// tokenizer are refused.
TEST_F(TextRow, EqualsTheShardsOfTheSameText) {
    const std::string folder =
        test::prepare_texts(folder_.path(), "text", {"the one document of it"});
    const TokenRow shards = open_shards(files_, folder, "train", *tokenizer_);
    const TokenRow memory = read_text_row(files_, path("text.jsonl"), EvaluateFormat::jsonl, "text",
                                          *tokenizer_, INT64_MAX);
    ASSERT_EQ(shards.tokens, memory.tokens);
    Sample one(10), other(10);
    for (bool document_mask : {false, true}) {
        shards.source->fill({.sample = 0, .unit = 5}, document_mask, one.view());
        memory.source->fill({.sample = 0, .unit = 5}, document_mask, other.view());
        EXPECT_EQ(one.inputs, other.inputs);
        EXPECT_EQ(one.targets, other.targets);
        EXPECT_EQ(one.positions, other.positions);
        EXPECT_EQ(one.documents, other.documents);
    }
    test::expect_error(
        ErrorKind::data, [&] { open_shards(files_, path("none"), "train", *tokenizer_); },
        "evaluate.data", path("none") + ": no such file");
    test::expect_error(
        ErrorKind::data, [&] { open_shards(files_, path("text.jsonl"), "train", *tokenizer_); },
        path("text.jsonl") + " is a file", "evaluate.format=text, jsonl or classification");
    const auto plain_bytes = core::data::load_tokenizer(files_, "byte256");
    EXPECT_THROW(open_shards(files_, folder, "train", *plain_bytes), Error);
}

}  // namespace
}  // namespace plinth::launch
