// SPDX-License-Identifier: Apache-2.0
#include "launch/tokenizer_stages.h"

#include <gtest/gtest.h>

#include "core/data/tokenizer.h"
#include "core/io/file.h"
#include "launch/stages.h"
#include "tests/support/expect_error.h"
#include "tests/support/temporary_folder.h"

namespace plinth::launch {
namespace {

class TokenizerStages : public ::testing::Test {
  protected:
    void SetUp() override {
        core::io::write_atomically(files, folder / "a.jsonl",
                                   "{\"text\": \"low lower lowest\"}\n{\"text\": \"low\\r\\n\"}\n");
        config.tokenizer.inputs = {folder / "a.jsonl"};
        config.tokenizer.output = folder / "bpe";
        config.tokenizer.vocab_size = 259;
        resolve(config);
    }
    /// What a stage printed on standard output.
    std::string printed(const std::vector<std::string>& words) {
        ::testing::internal::CaptureStdout();
        EXPECT_EQ(encode_text(words), 0);
        std::fflush(stdout);
        return ::testing::internal::GetCapturedStdout();
    }

    test::TemporaryFolder folder;
    core::io::FileSystem& files = core::io::posix();
    TokenizerConfig config;
};

TEST_F(TokenizerStages, LearnsTheMostFrequentPairs) {
    EXPECT_EQ(train_tokenizer(config), 0);
    const auto tokenizer = core::data::load_tokenizer(files, config.tokenizer.output);
    EXPECT_EQ(tokenizer->vocab_size(), 259);
    // "lo" and "ow" occur four times each: "low" is two merges, whichever came first.
    EXPECT_EQ(tokenizer->encode("low").size(), 1u);
    EXPECT_EQ(tokenizer->encode("wol").size(), 3u);
    EXPECT_EQ(tokenizer->token_bytes(*tokenizer->end_of_document()), "<|endoftext|>");
}

TEST_F(TokenizerStages, LinesWithTheTextInAnotherMemberAreRefused) {
    config.tokenizer.field = "body";
    test::expect_error(
        ErrorKind::data, [&] { train_tokenizer(config); }, "a.jsonl:1: no member \"body\"",
        "tokenizer.field");
}

TEST_F(TokenizerStages, AnExistingTokenizerStays) {
    EXPECT_EQ(train_tokenizer(config), 0);
    test::expect_error(
        ErrorKind::config, [&] { train_tokenizer(config); }, "tokenizer.output", "not empty");
}

TEST_F(TokenizerStages, EncodesOneDocumentALine) {
    EXPECT_EQ(printed({"byte", folder / "a.jsonl"}),
              "108 111 119 32 108 111 119 101 114 32 108 111 119 101 115 116\n"
              "108 111 119 13 10\n");
    EXPECT_EQ(printed({"byte", folder / "a.jsonl", "print=counts"}),
              "documents 2\nbytes 21\ntokens 21\nbytes per token 1.0000\n");
    test::expect_error(
        ErrorKind::config,
        [] {
            encode_text({"byte", "x", "print=all"});
        },
        "print=all");
}

TEST_F(TokenizerStages, ADryRunWritesNothing) {
    for (const Stage& stage : stages())
        if (stage.group == "tokenizer" && stage.name == "train") {
            EXPECT_EQ(run_stage(stage, {{"tokenizer.inputs=[" + (folder / "a.jsonl") + "]",
                                         "tokenizer.output=" + (folder / "bpe")},
                                        /*dry_run=*/true}),
                      0);
        }
    EXPECT_FALSE(files.exists(folder / "bpe"));
}

TEST(Stages, EachHasHelpAndAnExampleThatNamesIt) {
    for (const Stage& stage : stages()) {
        EXPECT_FALSE(stage.help.empty()) << stage.name;
        const std::string command =
            "plinth " + (stage.group.empty() ? "" : stage.group + " ") + stage.name;
        EXPECT_NE(stage.example.find(command), std::string::npos) << command;
    }
}

TEST(Stages, ExitCodesFollowTheKindOfError) {
    const auto code = [](const std::string& group, const std::string& name,
                         const std::vector<std::string>& words) {
        for (const Stage& stage : stages())
            if (stage.group == group && stage.name == name) return run_stage(stage, {words, false});
        return -1;
    };
    EXPECT_EQ(code("data", "inspect", {"/nonexistent"}), 3);
    EXPECT_EQ(code("checkpoint", "verify", {"/nonexistent"}), 4);
    EXPECT_EQ(code("checkpoint", "inspect", {}), 2);
    EXPECT_EQ(code("", "plot", {"/nonexistent"}), 5);
    EXPECT_EQ(code("data", "prepare", {"prepare.inputs=[/nonexistent]", "prepare.output=/tmp/x"}),
              2);
}

}  // namespace
}  // namespace plinth::launch
