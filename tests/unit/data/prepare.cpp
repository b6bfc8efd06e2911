// SPDX-License-Identifier: Apache-2.0
#include "core/data/prepare.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <map>
#include <random>
#include <set>
#include <utility>

#include "core/data/inspect.h"
#include "core/data/token_shard.h"
#include "core/data/tokenizer.h"
#include "core/io/compressed.h"
#include "core/io/json.h"
#include "core/io/run_lock.h"
#include "tests/support/expect_error.h"
#include "tests/support/faulty_files.h"
#include "tests/support/temporary_folder.h"

namespace plinth::core::data {
namespace {

using Texts = std::vector<std::string>;

class PrepareTest : public ::testing::Test {
  protected:
    void write(const std::string& name, std::string_view content) {
        files.make_directories(folder / "in");
        io::write_atomically(files, folder / ("in/" + name), content);
    }
    void write_jsonl(const std::string& name, const Texts& texts) { write(name, jsonl(texts)); }
    static std::string jsonl(const Texts& texts) {
        std::string lines;
        for (const std::string& text : texts) {
            io::Json json = io::Json::object();
            json["text"] = text;
            lines += json.dump() + "\n";
        }
        return lines;
    }

    PrepareConfig config(const std::string& output = "out") {
        PrepareConfig made;
        made.source.inputs = {folder / "in"};
        made.output = folder / output;
        made.held_out = 0;
        made.threads = 2;
        return made;
    }

    /// The documents of a split, in order.
    Texts documents(const std::string& output, const std::string& split = "train") {
        const std::string path = folder / output;
        const DatasetManifest manifest = DatasetManifest::load(files, path);
        const auto tokenizer = load_tokenizer(files, io::join(path, manifest.tokenizer));
        Texts texts;
        for (const ShardEntry& entry : manifest.split(split, path).shards) {
            verify_shard(files, path, entry, manifest);
            const TokenShard shard(files, io::join(path, entry.prefix));
            std::vector<int32_t> tokens(static_cast<size_t>(shard.tokens()));
            shard.read_tokens(0, tokens);
            texts.emplace_back();
            for (const int32_t token : tokens) {
                if (token == manifest.eod_id) {
                    texts.emplace_back();
                } else {
                    texts.back() += tokenizer->token_bytes(token);
                }
            }
            texts.pop_back();
        }
        return texts;
    }

    /// All files of a data set by name.
    std::map<std::string, std::string> contents(const std::string& output) {
        std::map<std::string, std::string> all;
        for (const auto& entry : std::filesystem::recursive_directory_iterator(folder / output)) {
            if (!entry.is_regular_file()) continue;
            const std::string path = entry.path().string();
            all[path.substr((folder / output).size())] = io::read_all(files, path);
        }
        return all;
    }

    /// What cannot be read as a lock would be watched for a minute before it is taken over.
    void remove_torn_locks() {
        const std::string partial = folder / "out.partial";
        if (!files.exists(partial)) return;
        for (const std::string& name : files.list(partial)) {
            const std::string path = io::join(partial, name);
            if (name.starts_with(io::run_lock_name) &&
                !io::LockRecord::parse(io::read_all(files, path)))
                files.remove(path);
        }
    }

    int exit_code_with_fault(const PrepareConfig& config, int64_t operation) {
        test::FaultyFiles faulty(files, {.operation = operation, .sticky = true});
        try {
            prepare(config, faulty);
        } catch (const Error& error) {
            return exit_code(error.kind());
        }
        return 0;
    }

    static Texts random_texts(int count, uint64_t seed) {
        std::mt19937_64 random(seed);
        Texts texts;
        for (int i = 0; i < count; ++i) {
            std::string text = fmt::format("document {} ", random() % 1000);
            for (size_t k = random() % 400; k > 0; --k)
                text += "abc de\u00e9f\n"[random() % 8 == 7 ? 3 : random() % 3];
            texts.push_back(text + ".");
        }
        return texts;
    }

    test::TemporaryFolder folder;
    io::FileSystem& files = io::posix();
};

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
              gzip ? io::compress_gzip(lines) : io::compress_zstd(lines));
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

TEST_F(PrepareTest, AnyFailedOperationLeavesNoDataSet) {
    write_jsonl("a.jsonl", random_texts(50, 3));
    PrepareConfig bounded = config();
    bounded.threads = 1;
    bounded.held_out = 0.2;
    bounded.shard_tokens = 3000;
    test::FaultyFiles counter(files);
    prepare(bounded, counter);
    const auto expected = contents("out");
    files.remove_all(folder / "out");
    int64_t failures = 0;
    for (int64_t k = 0; k < counter.operations(); ++k) {
        // A process of its own: the lock of one that lives stays where its disk is dead.
        const pid_t child = fork();
        if (child == 0) _exit(exit_code_with_fault(bounded, k));
        int status = 0;
        ASSERT_EQ(waitpid(child, &status, 0), child);
        ASSERT_TRUE(WIFEXITED(status)) << k;
        if (WEXITSTATUS(status) != 0) {
            EXPECT_EQ(WEXITSTATUS(status), exit_code(ErrorKind::io)) << k;
            ++failures;
        }
        // After the rename the set is whole, even if making the rename durable failed.
        if (files.exists(folder / "out")) {
            EXPECT_EQ(contents("out"), expected) << k;
        }
        files.remove_all(folder / "out");
        remove_torn_locks();
    }
    EXPECT_GT(failures, counter.operations() / 2);
    prepare(bounded, files);
    EXPECT_EQ(contents("out"), expected);
    EXPECT_FALSE(files.exists(folder / "out.partial"));
}

TEST_F(PrepareTest, AKilledPreparationLeavesNothingWhole) {
    write_jsonl("a.jsonl", random_texts(2000, 4));
    for (const std::string phase : {"reading", "writing"}) {
        const pid_t child = fork();
        if (child == 0) {
            prepare(config(), files, [&](const PrepareProgress& progress) {
                if (progress.phase == phase && progress.documents > 0) raise(SIGKILL);
            });
            _exit(0);
        }
        int status = 0;
        ASSERT_EQ(waitpid(child, &status, 0), child);
        ASSERT_TRUE(WIFSIGNALED(status)) << phase;
        EXPECT_FALSE(files.exists(folder / "out"));
        EXPECT_TRUE(files.exists(folder / "out.partial"));
        EXPECT_FALSE(files.exists(folder / "out.partial/data/manifest.json"));
    }
    prepare(config(), files);
    EXPECT_EQ(documents("out").size(), 2000u);
    EXPECT_FALSE(files.exists(folder / "out.partial"));
}

TEST_F(PrepareTest, ASecondPreparationIntoTheSameFolderIsRefused) {
    write_jsonl("a.jsonl", random_texts(2000, 6));
    prepare(config("alone"), files);
    bool tried = false;
    prepare(config(), files, [&](const PrepareProgress& progress) {
        if (progress.documents == 0 || std::exchange(tried, true)) return;
        test::expect_error(
            ErrorKind::io, [&] { prepare(config(), files); }, "out.partial: another job writes",
            "choose another prepare.output");
    });
    EXPECT_TRUE(tried);
    EXPECT_EQ(documents("out"), documents("alone"));
    EXPECT_FALSE(files.exists(folder / "out.partial"));
}

TEST_F(PrepareTest, APreparationWhoseLockWasTakenMakesNoDataSet) {
    write_jsonl("a.jsonl", random_texts(200, 7));
    const std::string lock = folder / "out.partial/run.lock";
    test::expect_error(
        ErrorKind::io,
        [&] {
            prepare(config(), files, [&](const PrepareProgress&) {
                if (files.exists(lock)) files.remove(lock);
            });
        },
        "lock was removed", "makes no data set");
    EXPECT_FALSE(files.exists(folder / "out"));
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
