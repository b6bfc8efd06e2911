// SPDX-License-Identifier: Apache-2.0
#include "core/data/manifest.h"

#include <gtest/gtest.h>

#include "tests/support/expect_error.h"
#include "tests/support/temporary_folder.h"

namespace plinth::core::data {
namespace {

using io::Json;
using test::expect_error;

DatasetManifest example() {
    DatasetManifest manifest;
    manifest.source = "books";
    manifest.tokenizer = "tokenizer.json";
    manifest.tokenizer_hash = "0123456789abcdef0123456789abcdef";
    manifest.vocab_size = 8192;
    manifest.eod_id = 0;
    manifest.dtype = "u16";
    manifest.dropped = {{"empty", 3}, {"repeated", 17}};
    manifest.splits["train"].shards = {{"train-00000", 1000, 10, 4100, "00000000000000aa", "ab"},
                                       {"train-00001", 500, 4, 2100, "ac", "ad"}};
    manifest.splits["heldout"].shards = {{"heldout-00000", 70, 1, 300, "ae", "af"}};
    return manifest;
}

TEST(DatasetManifest, ReadsBackWhatItWrote) {
    test::TemporaryFolder folder;
    example().save(io::posix(), folder.path());
    const DatasetManifest back = DatasetManifest::load(io::posix(), folder.path());
    EXPECT_EQ(back, example());
    EXPECT_EQ(back.split("train", "m").tokens(), 1500);
    EXPECT_EQ(back.split("train", "m").documents(), 14);
    EXPECT_EQ(back.split("train", "m").bytes(), 6200);
}

TEST(DatasetManifest, EveryFieldSurvives) {
    // A field that were not written, or read into another, would leave this equal.
    const std::string whole = example().to_json().dump();
    const auto differs = [&](auto change) {
        DatasetManifest changed = example();
        change(changed);
        const Json text = Json::parse(changed.to_json().dump(), "m");
        EXPECT_NE(DatasetManifest::from_json(text, "m"), example());
        EXPECT_EQ(DatasetManifest::from_json(text, "m"), changed);
    };
    differs([](auto& m) { m.source = "x"; });
    differs([](auto& m) { m.tokenizer = "x"; });
    differs([](auto& m) { m.tokenizer_hash = "x"; });
    differs([](auto& m) { m.vocab_size = 9; });
    differs([](auto& m) { m.eod_id = -1; });
    differs([](auto& m) { m.dtype = "i32"; });
    differs([](auto& m) { m.dropped["empty"] = 4; });
    differs([](auto& m) { m.splits.erase("heldout"); });
    differs([](auto& m) { m.splits["train"].shards[1].prefix = "x"; });
    differs([](auto& m) { m.splits["train"].shards[1].tokens = 1; });
    differs([](auto& m) { m.splits["train"].shards[1].documents = 1; });
    differs([](auto& m) { m.splits["train"].shards[1].bytes = 1; });
    differs([](auto& m) { m.splits["train"].shards[1].bin_xxh3 = "x"; });
    differs([](auto& m) { m.splits["train"].shards[1].idx_xxh3 = "x"; });
}

TEST(DatasetManifest, RefusalsNameFileAndKey) {
    const auto refused = [](std::string from, const std::string& to, const auto&... parts) {
        std::string text = example().to_json().dump(1);
        const size_t at = text.find(from);
        ASSERT_NE(at, std::string::npos) << from;
        text.replace(at, from.size(), to);
        expect_error(
            ErrorKind::data,
            [&] { DatasetManifest::from_json(Json::parse(text, "m.json"), "m.json"); }, "m.json",
            parts...);
    };
    refused("\"format\": 1", "\"format\": 2", "format 2", "reads format 1");
    refused("\"source\"", "\"sauce\"", "'source' is missing");
    refused("8192", "0", "'vocab_size'");
    refused("\"eod_id\": 0", "\"eod_id\": 8192", "'eod_id'");
    refused("u16", "f32", "'dtype'", "f32");
    refused("\"tokens\": 1000", "\"tokens\": 1001", "'train'", "'tokens' is 1500", "1501");
    refused("\"tokens\": 1000", "\"tokens\": -1", "'tokens'", "-1");
    refused("train-00001", "../train", "'prefix'", "../train");
    refused("\"repeated\": 17", "\"repeated\": \"x\"", "'repeated'", "a string");
}

TEST(DatasetManifest, MissingFileAndSplit) {
    test::TemporaryFolder folder;
    expect_error(
        ErrorKind::data, [&] { DatasetManifest::load(io::posix(), folder.path()); },
        folder / "manifest.json", "data prepare");
    const std::string file = folder / "text.txt";
    expect_error(
        ErrorKind::data, [&] { DatasetManifest::load(io::posix(), file); },
        file + ": no such file or folder", "data prepare");
    io::write_atomically(io::posix(), file, "text");
    expect_error(
        ErrorKind::data, [&] { DatasetManifest::load(io::posix(), file); }, file + ": is a file",
        "data prepare");
    expect_error(
        ErrorKind::data, [&] { example().split("test", "m.json"); }, "m.json", "'test'",
        "heldout, train");
}

}  // namespace
}  // namespace plinth::core::data
