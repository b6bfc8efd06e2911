// SPDX-License-Identifier: Apache-2.0
#include "launch/training_data.h"

#include <gtest/gtest.h>

#include <cmath>
#include <tuple>

#include "tests/support/expect_error.h"
#include "tests/support/prepared_text.h"
#include "tests/support/temporary_folder.h"

namespace plinth::launch {
namespace {

class PreparedData : public testing::Test {
  protected:
    std::string path(const std::string& name) const { return core::io::join(folder_.path(), name); }

    /// A data set of `documents` documents with `held_out` as the share of its held-out split.
    std::string prepare(const std::string& name, const std::string& tokenizer = "byte",
                        double held_out = 0, int documents = 40) {
        return test::prepare_texts(folder_.path(), name, test::numbered_documents(documents, name),
                                   held_out, tokenizer);
    }

    TrainingData open(const std::vector<std::string>& sources, int64_t eval_every = 0,
                      const std::string& held_out = "") {
        RunConfig config;
        config.model.vocab_size = 257;
        config.data.sequence_length = 8;
        config.data.held_out = held_out;
        config.train.eval_every = eval_every;
        for (const std::string& source : sources)
            config.data.sources.push_back({.path = source, .weight = 1, .name = ""});
        return TrainingData::open(config, files_);
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
    test::expect_error(
        ErrorKind::data, [&] { open({set}); }, set, "tokenizer", "exchanged");
}

TEST_F(PreparedData, IsEvaluatedOnTheHeldOutSplitsOfAllSources) {
    const std::string without = prepare("without"), small = prepare("small", "byte", 0.5, 40),
                      large = prepare("large", "byte", 0.5, 120);
    const TrainingData data = open({without, small, large}, 10);
    ASSERT_EQ(data.held_out.size(), 2u);
    const std::vector<int64_t> sizes{data.held_out[0].windows, data.held_out[1].windows};
    const int64_t total = sizes[0] + sizes[1];
    ASSERT_GT(sizes[0], 8);
    const auto shares = [&](int64_t most) {
        std::vector<int64_t> counts{0, 0};
        for (const WindowRef& window : data.held_out_windows(most)) {
            int64_t& share = counts[window.source == data.held_out[1].source.get() ? 1 : 0];
            EXPECT_EQ(window.number, share++);  // the first ones of each, in order
        }
        return counts;
    };
    EXPECT_EQ(shares(total), sizes);
    EXPECT_EQ(shares(INT32_MAX), sizes);
    const std::vector<int64_t> some = shares(total / 3);
    EXPECT_EQ(some[0] + some[1], total / 3);
    EXPECT_NEAR(static_cast<double>(some[0]), static_cast<double>(sizes[0]) / 3, 1.0);
    // Bytes and their end tokens: over both splits, not over one of them.
    int64_t tokens = 0, bytes = 0;
    for (const std::string& folder : {small, large}) {
        const auto split =
            core::data::DatasetManifest::load(files_, folder).split("heldout", folder);
        tokens += split.tokens();
        bytes += split.bytes();
    }
    EXPECT_DOUBLE_EQ(data.bits_per_byte_factor,
                     static_cast<double>(tokens) / static_cast<double>(bytes) / std::log(2.0));
    EXPECT_EQ(open({large}, 10, small).held_out.size(), 1u);
    EXPECT_EQ(open({large}, 10, small).held_out[0].windows, sizes[0]);
}

TEST_F(PreparedData, IsRefusedForAnotherTokenizerThanTheConfigured) {
    RunConfig config;
    config.model.vocab_size = 257;
    config.data.sequence_length = 8;
    config.data.sources.push_back({.path = prepare("text", "byte256"), .weight = 1, .name = ""});
    for (const char* same : {"", "byte256"}) {
        config.data.tokenizer = same;
        EXPECT_NO_THROW(TrainingData::open(config, files_));
    }
    core::data::save_tokenizer(files_, *core::data::load_tokenizer(files_, "byte256"), path("own"));
    config.data.tokenizer = path("own");
    EXPECT_NO_THROW(TrainingData::open(config, files_));
    config.data.tokenizer = "byte";
    test::expect_error(
        ErrorKind::config, [&] { TrainingData::open(config, files_); }, "data.tokenizer=byte",
        path("text"), "256 tokens");
}

TEST(TrainingDataMemory, BoundsTheMicroBatchesAhead) {
    RunConfig config;
    config.data.sequence_length = 1024;
    config.train.micro_batch = 16;  // 256 KiB
    config.data.prefetch = 8;
    const auto ahead = [&](int64_t kib) {
        config.data.memory = kib << 10;
        return micro_batches_ahead(config);
    };
    EXPECT_EQ(ahead(1 << 20), 8);
    EXPECT_EQ(ahead(4 * 256), 4);
    EXPECT_EQ(ahead(4 * 256 - 1), 3);
    EXPECT_EQ(ahead(100), 1);
}

TEST_F(PreparedData, WindowsOfSeveralSetsMakeOneBatch) {
    const TrainingData data = open({prepare("a", "byte", 0.5), prepare("b", "byte", 0.5)});
    const auto& [a, b] = std::tie(data.held_out[0].source, data.held_out[1].source);
    const std::vector<WindowRef> windows{{a.get(), 2}, {b.get(), 0}};
    const core::data::MicroBatch batch = batch_of(windows, 8, false);
    std::vector<int32_t> expected = batch_in_order(*a, 2, 1, 8, false).inputs;
    const std::vector<int32_t> second = batch_in_order(*b, 0, 1, 8, false).inputs;
    expected.insert(expected.end(), second.begin(), second.end());
    EXPECT_EQ(batch.inputs, expected);
    EXPECT_EQ(batch.rows, 2);
}

TEST_F(PreparedData, WithoutAnythingToEvaluateOnIsRefused) {
    const std::string without = prepare("without"), with = prepare("with", "byte", 0.5),
                      foreign = prepare("foreign", "byte256", 0.5);
    EXPECT_TRUE(open({without}).held_out.empty());
    const auto refuse = [&](const std::string& held_out, int64_t eval_every, const auto&... parts) {
        test::expect_error(
            ErrorKind::config, [&] { open({without}, eval_every, held_out); }, parts...);
    };
    refuse("", 10, "train.eval_every=10", "prepare.held_out", "train.eval_every=0");
    refuse(without, 0, "data.held_out=" + without, "prepare.held_out");
    refuse(foreign, 0, "data.held_out=" + foreign, "another tokenizer than " + without);
    EXPECT_EQ(open({without}, 10, with).held_out.size(), 1u);
}

}  // namespace
}  // namespace plinth::launch
