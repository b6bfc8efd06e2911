// SPDX-License-Identifier: Apache-2.0
#include "launch/training_data.h"

#include <gtest/gtest.h>

#include "core/data/prepare.h"
#include "tests/support/expect_error.h"
#include "tests/support/temporary_folder.h"

namespace plinth::launch {
namespace {

class PreparedData : public testing::Test {
  protected:
    std::string path(const std::string& name) const { return core::io::join(folder_.path(), name); }

    /// A data set of 40 documents.
    std::string prepare(const std::string& name, const std::string& tokenizer) {
        std::string text;
        for (int i = 0; i < 40; ++i)
            text += fmt::format("{{\"text\": \"document {} of {}\"}}\n", i, name);
        core::io::write_atomically(files_, path(name + ".jsonl"), text);
        core::data::PrepareConfig config;
        config.source.inputs = {path(name + ".jsonl")};
        config.output = path(name);
        config.tokenizer = tokenizer;
        config.held_out = 0;
        core::data::prepare(config, files_);
        return config.output;
    }

    TrainingData open(const std::vector<std::string>& sources) {
        DataSection section;
        section.sequence_length = 8;
        for (const std::string& source : sources)
            section.sources.push_back({.path = source, .weight = 1, .name = ""});
        return TrainingData::open(section, 257, files_);
    }

    core::io::FileSystem& files_ = core::io::posix();
    test::TemporaryFolder folder_;
};

TEST_F(PreparedData, IsRefusedBesideACheckpointOfAnotherTokenizer) {
    const TrainingData data = open({prepare("text", "byte")});
    checkpoints::Manifest manifest;
    EXPECT_NO_THROW(data.require_tokenizer_of(manifest, "run"));
    manifest.files = core::data::load_tokenizer(files_, "byte")->serialize();
    EXPECT_NO_THROW(data.require_tokenizer_of(manifest, "run"));
    manifest.files = core::data::load_tokenizer(files_, "byte256")->serialize();
    test::expect_error(
        ErrorKind::checkpoint, [&] { data.require_tokenizer_of(manifest, "runs/old"); },
        "runs/old was trained with byte (256 tokens", "the data text was made with byte (257");
}

TEST_F(PreparedData, IsRefusedWhenItsTokenizerWasExchanged) {
    const std::string set = prepare("text", "byte");
    EXPECT_NO_THROW(open({set}));
    core::data::save_tokenizer(files_, *core::data::load_tokenizer(files_, "byte256"),
                               core::io::join(set, "tokenizer"));
    test::expect_error(ErrorKind::data, [&] { open({set}); }, set, "tokenizer", "exchanged");
}

}  // namespace
}  // namespace plinth::launch
