// SPDX-License-Identifier: Apache-2.0
#include "core/data/prepare.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

#include "core/data/inspect.h"
#include "tests/support/compressed_text.h"
#include "tests/support/expect_error.h"
#include "tests/unit/data/prepare_run.h"

namespace plinth::core::data {
namespace {

TEST_F(PrepareTest, EveryDocumentOnceAndShuffled) {
    Texts texts;
    for (int i = 0; i < 500; ++i)
        texts.push_back(fmt::format("document number {}", i));
    write_jsonl("a.jsonl", texts);
    const PrepareReport report = prepare(config(), files);
    Texts found = documents("out");
    EXPECT_NE(found, texts);
    std::sort(texts.begin(), texts.end());
    Texts ordered = found;
    std::sort(ordered.begin(), ordered.end());
    EXPECT_EQ(ordered, texts);
    EXPECT_EQ(report.documents_read, 500);
    EXPECT_EQ(report.manifest, DatasetManifest::load(files, folder / "out"));
    EXPECT_EQ(report.manifest.source, "out");
    int64_t bytes = 0;
    for (const std::string& text : texts)
        bytes += static_cast<int64_t>(text.size());
    EXPECT_EQ(report.manifest.split("train", "").bytes(), bytes);
    EXPECT_EQ(report.manifest.split("train", "").tokens(), bytes + 500);
    EXPECT_FALSE(files.exists(folder / "out.partial"));

    PrepareConfig other = config("other");
    other.seed = 1;
    prepare(other, files);
    EXPECT_NE(documents("other"), found);
}

TEST_F(PrepareTest, MemoryAndThreadsChangeNoByte) {
    for (int i = 0; i < 4; ++i) {
        write_jsonl(fmt::format("{}.jsonl", i), random_texts(3000, static_cast<uint64_t>(i % 3)));
    }
    PrepareConfig base = config("base");
    base.held_out = 0.1;
    base.shard_tokens = 100'000;
    base.name = "same";
    const PrepareReport report = prepare(base, files);
    EXPECT_GT(report.manifest.split("train", "").shards.size(), 2u);
    EXPECT_GE(report.manifest.dropped.at("duplicate"), 3000);
    const auto expected = contents("base");
    int variant = 0;
    for (const int threads : {1, 3}) {
        for (const int64_t memory : {int64_t{1} << 20, int64_t{3} << 20, int64_t{1} << 30}) {
            const std::string output = fmt::format("v{}", variant++);
            PrepareConfig changed = base;
            changed.output = folder / output;
            changed.threads = threads;
            changed.memory = memory;
            const PrepareReport other = prepare(changed, files);
            EXPECT_LE(other.peak_spill_memory, memory);
            EXPECT_EQ(contents(output), expected) << threads << " threads, " << memory;
        }
    }
    // The mutant: another seed must change the files.
    PrepareConfig seeded = base;
    seeded.output = folder / "seeded";
    seeded.seed = 99;
    prepare(seeded, files);
    EXPECT_NE(contents("seeded"), expected);
}

TEST_F(PrepareTest, DuplicatesGoAcrossFilesAndForms) {
    write_jsonl("a.jsonl", {"same", "only a", "caf\u00e9"});
    write_jsonl("b.jsonl", {"only b", "same", "cafe\u0301", "same\r"});
    write("c.txt", "same");
    const PrepareReport report = prepare(config(), files);
    EXPECT_EQ(report.manifest.dropped, (std::map<std::string, int64_t>{{"duplicate", 3}}));
    const Texts found = documents("out");
    EXPECT_EQ(std::set<std::string>(found.begin(), found.end()),
              (std::set<std::string>{"same", "only a", "only b", "caf\u00e9", "same\n"}));
    EXPECT_EQ(found.size(), 5u);

    PrepareConfig all = config("all");
    all.deduplicate = false;
    EXPECT_TRUE(prepare(all, files).manifest.dropped.empty());
    EXPECT_EQ(documents("all").size(), 8u);
}

TEST_F(PrepareTest, EveryDroppedDocumentIsCounted) {
    write("a.jsonl", "{\"text\": \"good\"}\nbad\n{\"text\": \" \\n\"}\n{\"text\": \"x\"}\n");
    write("b.txt", "broken \xFF");
    PrepareConfig strict = config();
    strict.cleaning = {.invalid_utf8 = InvalidUtf8::drop, .min_characters = 2};
    const PrepareReport report = prepare(strict, files);
    EXPECT_EQ(report.manifest.dropped,
              (std::map<std::string, int64_t>{
                  {"bad_line", 1}, {"blank", 1}, {"invalid_utf8", 1}, {"too_short", 1}}));
    EXPECT_EQ(documents("out"), (Texts{"good"}));
    PrepareConfig lenient = config("lenient");
    prepare(lenient, files);
    const Texts found = documents("lenient");
    EXPECT_NE(std::find(found.begin(), found.end(), "broken \uFFFD"), found.end());
}

TEST_F(PrepareTest, BinaryFilesAreCountedAndOneThatIsNamedIsRefused) {
    write("a.txt", "text");
    write("b.bin", std::string(1000, '\0'));
    write("c.bin", std::string(1000, '\xFF'));
    PrepareConfig lenient = config();
    lenient.source.skip_odd_files = true;
    const PrepareReport report = prepare(lenient, files);
    EXPECT_EQ(report.manifest.dropped, (std::map<std::string, int64_t>{{"binary", 2}}));
    EXPECT_EQ(report.documents_read, 1);
    EXPECT_TRUE(report.binary.starts_with("2 binary files were left out; the first is "))
        << report.binary;
    EXPECT_EQ(documents("out"), (Texts{"text"}));
    PrepareConfig named = lenient;
    named.output = folder / "named";
    named.source.inputs = {folder / "in/a.txt", folder / "in/c.bin"};
    test::expect_error(
        ErrorKind::data, [&] { prepare(named, files); },
        "in/c.bin: is no text: 100 % of its first 1000 bytes", "UTF-8");
    EXPECT_FALSE(files.exists(folder / "named"));
    files.remove(folder / "in/a.txt");
    lenient.output = folder / "nothing";
    test::expect_error(
        ErrorKind::data, [&] { prepare(lenient, files); },
        "none of 0 documents is left for training (dropped: 2 binary");
}

TEST_F(PrepareTest, CompressedInputsGiveTheSameDataSet) {
    const std::string lines = jsonl(random_texts(200, 1));
    write("a.jsonl", lines);
    PrepareConfig plain = config("plain");
    plain.name = "same";
    prepare(plain, files);
    for (const bool gzip : {true, false}) {
        files.remove_all(folder / "in");
        write(gzip ? "a.jsonl.gz" : "a.jsonl.zst",
              gzip ? test::compress_gzip(lines) : test::compress_zstd(lines));
        PrepareConfig packed = config(gzip ? "gzip" : "zstd");
        packed.name = "same";
        prepare(packed, files);
        EXPECT_EQ(contents(gzip ? "gzip" : "zstd"), contents("plain"));
    }
}

TEST_F(PrepareTest, TheHeldOutShareIsByContent) {
    Texts texts;
    for (int i = 0; i < 4000; ++i)
        texts.push_back(fmt::format("text {}", i));
    write_jsonl("a.jsonl", texts);
    PrepareConfig tenth = config();
    tenth.held_out = 0.1;
    prepare(tenth, files);
    const Texts held_out = documents("out", "heldout");
    EXPECT_NEAR(static_cast<double>(held_out.size()), 400, 80);
    EXPECT_EQ(documents("out").size() + held_out.size(), 4000u);

    // In another order and with others beside them the same documents are held out.
    std::reverse(texts.begin(), texts.end());
    for (int i = 0; i < 100; ++i)
        texts.push_back(fmt::format("more {}", i));
    write_jsonl("a.jsonl", texts);
    tenth.output = folder / "again";
    prepare(tenth, files);
    const Texts again = documents("again", "heldout");
    for (const std::string& text : held_out) {
        EXPECT_NE(std::find(again.begin(), again.end(), text), again.end()) << text;
    }
}

TEST_F(PrepareTest, BpeAndShardBounds) {
    write_jsonl("a.jsonl", random_texts(300, 2));
    PrepareConfig bpe = config();
    bpe.tokenizer = std::string(PLINTH_SOURCE_DIR) + "/tests/golden/tokenizer/tiny";
    bpe.shard_tokens = 5000;
    const PrepareReport report = prepare(bpe, files);
    for (const ShardEntry& shard : report.manifest.split("train", "").shards) {
        EXPECT_LE(shard.tokens, 5000);
    }
    Texts expected = random_texts(300, 2), found = documents("out");
    std::sort(expected.begin(), expected.end());
    std::sort(found.begin(), found.end());
    EXPECT_EQ(found, expected);

    const DatasetSummary summary = inspect_dataset(files, folder / "out");
    const SplitSummary& train = summary.splits.at("train");
    EXPECT_EQ(train.documents, 300);
    int64_t counted = 0;
    for (const int64_t count : train.length_histogram)
        counted += count;
    EXPECT_EQ(counted, 300);
    EXPECT_EQ(train.first_documents.size(), 3u);
    EXPECT_EQ(train.first_documents[0].substr(0, 9), "document ");
    EXPECT_GT(train.bytes_per_token(), 1.0);

    save_tokenizer(files, *load_tokenizer(files, "byte"), folder / "out/tokenizer");
    test::expect_error(
        ErrorKind::data, [&] { inspect_dataset(files, folder / "out"); },
        "not the one that made the tokens");
}

TEST_F(PrepareTest, ProgressReachesTheEndOfBothPhases) {
    write_jsonl("a.jsonl", random_texts(20, 5));
    std::map<std::string, PrepareProgress> last;
    prepare(config(), files, [&](const PrepareProgress& progress) {
        EXPECT_LE(progress.bytes_done, progress.bytes_total);
        last.insert_or_assign(progress.phase, progress);
    });
    ASSERT_EQ(last.size(), 2u);
    for (const auto& [phase, progress] : last) {
        EXPECT_EQ(progress.bytes_done, progress.bytes_total) << phase;
        EXPECT_EQ(progress.documents, 20) << phase;
    }
}

TEST_F(PrepareTest, RefusesWhatCannotBe) {
    write_jsonl("a.jsonl", {"text"});
    const auto refused = [&](ErrorKind kind, auto change, const std::string& part) {
        PrepareConfig changed = config();
        change(changed);
        test::expect_error(
            kind, [&] { prepare(changed, files); }, part);
        EXPECT_FALSE(files.exists(folder / "out.partial"));
    };
    using C = PrepareConfig;
    refused(
        ErrorKind::config, [](C& c) { c.held_out = 1; }, "prepare.held_out:");
    refused(
        ErrorKind::config, [](C& c) { c.output = ""; }, "prepare.output:");
    refused(
        ErrorKind::config, [](C& c) { c.shard_tokens = 0; }, "prepare.shard_tokens:");
    refused(
        ErrorKind::config, [](C& c) { c.memory = 1; }, "prepare.memory:");
    refused(
        ErrorKind::config, [](C& c) { c.source.inputs = {"nowhere"}; }, "nowhere");
    refused(
        ErrorKind::data, [](C& c) { c.tokenizer = "nowhere"; }, "nowhere");
    refused(
        ErrorKind::data, [](C& c) { c.cleaning.min_characters = 9; }, "too_short");
    files.make_directories(folder / "out");
    prepare(config(), files);  // an empty folder is fine
    refused(
        ErrorKind::config, [](C&) {}, "holds a finished data set");
    files.remove(folder / "out/manifest.json");
    refused(
        ErrorKind::config, [](C&) {}, "is not empty");
}

}  // namespace
}  // namespace plinth::core::data
