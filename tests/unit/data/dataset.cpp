// SPDX-License-Identifier: Apache-2.0
#include "core/data/dataset.h"

#include <gtest/gtest.h>

#include <random>

#include "tests/support/expect_error.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tiny_dataset.h"

namespace plinth::core::data {
namespace {

using test::expect_error;
using test::TemporaryFolder;

struct Fixture {
    TemporaryFolder folder;
    std::vector<int32_t> tokens;
    std::vector<bool> begins;  ///< token i begins a document

    explicit Fixture(int shard_count) {
        std::mt19937 random(3);
        std::vector<std::vector<std::vector<int32_t>>> shards(static_cast<size_t>(shard_count));
        for (auto& shard : shards)
            for (int d = 0; d < 20; ++d) {
                std::vector<int32_t> document(random() % 40);
                for (size_t t = 0; t < document.size(); ++t) {
                    document[t] = static_cast<int32_t>(random() % 1000);
                    begins.push_back(t == 0);
                }
                tokens.insert(tokens.end(), document.begin(), document.end());
                shard.push_back(document);
            }
        test::write_dataset(folder.path(), "s", 1000, shards);
    }
};

TEST(Dataset, ReadsAcrossShardsAndAroundTheEnd) {
    const Fixture fixture(4);
    const auto dataset = Dataset::open(io::posix(), fixture.folder.path(), "train");
    const auto size = static_cast<int64_t>(fixture.tokens.size());
    ASSERT_EQ(dataset->tokens(), size);
    EXPECT_EQ(dataset->documents(), 80);
    EXPECT_EQ(dataset->bytes(), size);
    for (int64_t offset = 0; offset < size; offset += 7)
        for (const int64_t count : {int64_t{1}, int64_t{100}, size, 2 * size + 5}) {
            std::vector<int32_t> found(static_cast<size_t>(count));
            dataset->read_tokens(offset, found);
            for (int64_t i = 0; i < count; ++i)
                ASSERT_EQ(found[static_cast<size_t>(i)],
                          fixture.tokens[static_cast<size_t>((offset + i) % size)])
                    << offset << " + " << i;
        }
}

TEST(Dataset, PositionsAndIdsRestartAtDocuments) {
    const Fixture fixture(3);
    const auto dataset = Dataset::open(io::posix(), fixture.folder.path(), "train");
    const auto size = static_cast<int64_t>(fixture.tokens.size());
    for (int64_t offset = 0; offset < size; offset += 3) {
        std::vector<int32_t> positions(300), ids(300);
        dataset->read_documents(offset, positions, ids);
        int32_t id = 0, position = 0;
        for (int64_t i = 0; i < 300; ++i) {
            if (i > 0 && fixture.begins[static_cast<size_t>((offset + i) % size)]) {
                ++id;
                position = 0;
            }
            ASSERT_EQ(ids[static_cast<size_t>(i)], id) << offset << " + " << i;
            ASSERT_EQ(positions[static_cast<size_t>(i)], position++) << offset << " + " << i;
        }
    }
}

TEST(Dataset, SamplesAreShiftedByOne) {
    const Fixture fixture(2);
    const auto dataset = Dataset::open(io::posix(), fixture.folder.path(), "train");
    std::vector<int32_t> inputs(64), targets(64), positions(64), ids(64);
    const int64_t unit = dataset->tokens() - 10;
    dataset->fill({.unit = unit}, false, {inputs, targets, positions, ids});
    for (int64_t t = 0; t < 64; ++t) {
        const auto at = static_cast<size_t>(t);
        const auto token = [&](int64_t i) {
            return fixture.tokens[static_cast<size_t>((unit + i) % dataset->tokens())];
        };
        EXPECT_EQ(inputs[at], token(t));
        EXPECT_EQ(targets[at], token(t + 1));
        EXPECT_EQ(positions[at], t);
        EXPECT_EQ(ids[at], 0);
    }
}

TEST(Dataset, DescribesItsContent) {
    const Fixture fixture(2);
    const auto dataset = Dataset::open(io::posix(), fixture.folder.path(), "train");
    const BlendSource description = dataset->describe();
    EXPECT_EQ(description.name, "s");
    EXPECT_EQ(Dataset::open(io::posix(), fixture.folder.path(), "train", "x")->describe().name,
              "x");
    EXPECT_EQ(description.units, dataset->tokens());
    EXPECT_FALSE(description.examples);
    DatasetManifest changed = dataset->manifest();
    std::swap(changed.splits["train"].shards[0], changed.splits["train"].shards[1]);
    const Dataset other(io::posix(), fixture.folder.path(), changed, "train");
    EXPECT_NE(other.describe().fingerprint, description.fingerprint);
}

TEST(Dataset, RefusalsNameTheFile) {
    const Fixture fixture(2);
    const std::string folder = fixture.folder.path();
    const DatasetManifest sound = DatasetManifest::load(io::posix(), folder);
    expect_error(
        ErrorKind::data, [&] { Dataset::open(io::posix(), folder, "test"); }, "manifest.json",
        "'test'");
    const auto refused = [&](auto change, const auto&... parts) {
        DatasetManifest manifest = sound;
        change(manifest);
        expect_error(
            ErrorKind::data,
            [&] {
                const Dataset dataset(io::posix(), folder, manifest, "train");
                std::vector<int32_t> all(static_cast<size_t>(dataset.tokens()));
                dataset.read_tokens(0, all);
            },
            parts...);
    };
    refused([](auto& m) { ++m.splits["train"].shards[1].tokens; }, "train-00001.bin", "changed");
    refused([](auto& m) { m.dtype = "i32"; }, "train-00000.bin", "u16", "i32");
    refused([](auto& m) { m.splits["train"].shards.clear(); }, "no tokens");
    refused([](auto& m) { m.vocab_size = 900; }, "train-00000.bin", "vocabulary of 900");
    io::posix().remove(fixture.folder / "train-00001.idx");
    expect_error(
        ErrorKind::io, [&] { Dataset::open(io::posix(), folder, "train"); }, "train-00001.idx");
}

TEST(ExampleSource, PadsAndMasks) {
    const ExampleSource source("tasks", {{{5, 6, 7, 8}, {0, 0, 1, 1}}, {{9, 3}, {0, 1}}}, 6, 0);
    std::vector<int32_t> inputs(6, 77), targets(6, 77), positions(6, 77), ids(6, 77);
    source.fill({.unit = 0}, true, {inputs, targets, positions, ids});
    EXPECT_EQ(inputs, (std::vector<int32_t>{5, 6, 7, 0, 0, 0}));
    EXPECT_EQ(targets, (std::vector<int32_t>{-100, 7, 8, -100, -100, -100}));
    EXPECT_EQ(positions, (std::vector<int32_t>{0, 1, 2, 3, 4, 5}));
    EXPECT_EQ(ids, (std::vector<int32_t>{0, 0, 0, 1, 1, 1}));
    const BlendSource description = source.describe();
    EXPECT_EQ(description.units, 2);
    EXPECT_TRUE(description.examples);
    const ExampleSource other("tasks", {{{5, 6, 7, 8}, {0, 0, 1, 1}}, {{9, 3}, {1, 1}}}, 6, 0);
    EXPECT_NE(other.describe().fingerprint, description.fingerprint);
}

TEST(ExampleSource, BadExamplesAreNamed) {
    const auto refused = [](Example bad, const auto&... parts) {
        expect_error(
            ErrorKind::data,
            [&] {
                ExampleSource("tasks", {{{1, 2}, {0, 1}}, bad}, 4, 0);
            },
            "tasks: example 1", parts...);
    };
    refused({{1}, {1}}, "1 tokens");
    refused({{1, 2, 3, 4, 5, 6}, {0, 0, 0, 0, 0, 1}}, "6 tokens", "2 to 5");
    refused({{1, 2}, {1, 0}}, "no token carries a loss");
    refused({{1, 2}, {0}}, "1 label marks");
}

}  // namespace
}  // namespace plinth::core::data
