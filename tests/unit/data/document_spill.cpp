// SPDX-License-Identifier: Apache-2.0
#include "core/data/document_spill.h"

#include <gtest/gtest.h>

#include <random>
#include <tuple>

#include "tests/support/expect_error.h"
#include "tests/support/memory_files.h"

namespace plinth::core::data {
namespace {

struct Spilled {
    uint64_t key;
    io::Hash128 hash;
    uint64_t sequence;
    std::vector<int32_t> tokens;
    auto operator<=>(const Spilled&) const = default;
};

/// `copies` of every document but with its own sequence number, in random order.
std::vector<Spilled> make_documents(int count, int copies, int32_t vocab) {
    std::mt19937_64 random(5);
    std::vector<Spilled> documents;
    for (int i = 0; i < count; ++i) {
        Spilled document{random(), {random(), random()}, 0, {}};
        document.tokens.resize(random() % 300);
        for (int32_t& token : document.tokens) {
            token = static_cast<int32_t>(random() % static_cast<uint64_t>(vocab));
        }
        for (int copy = 0; copy < copies; ++copy)
            documents.push_back(document);
    }
    std::shuffle(documents.begin(), documents.end(), random);
    for (size_t i = 0; i < documents.size(); ++i)
        documents[i].sequence = i;
    return documents;
}

struct Result {
    std::vector<Spilled> documents;
    int64_t duplicates, peak_memory, splits;
};

Result spill(const std::vector<Spilled>& documents, DocumentSpill::Config config) {
    test::MemoryFiles files;
    files.make_directories("spill");
    config.folder = "spill";
    DocumentSpill spill(files, config);
    for (const Spilled& document : documents) {
        spill.add({.key = document.key, .hash = document.hash, .sequence = document.sequence},
                  document.tokens);
    }
    Result result{};
    spill.drain([&](const DocumentRecord& record, std::span<const int32_t> tokens) {
        result.documents.push_back(
            {record.key, record.hash, record.sequence, {tokens.begin(), tokens.end()}});
    });
    EXPECT_TRUE(files.paths().empty()) << "drained buckets stay on disk";
    result.duplicates = spill.duplicates();
    result.peak_memory = spill.peak_memory();
    result.splits = spill.splits();
    return result;
}

std::vector<Spilled> sorted(std::vector<Spilled> documents, bool drop_duplicates) {
    std::sort(documents.begin(), documents.end());
    if (drop_duplicates) {
        documents.erase(
            std::unique(documents.begin(), documents.end(),
                        [](const Spilled& a, const Spilled& b) { return a.hash == b.hash; }),
            documents.end());
    }
    return documents;
}

TEST(DocumentSpill, AnyMemoryAndAnyGuessGiveTheSameOrder) {
    for (const bool wide : {false, true}) {
        const auto documents = make_documents(2000, 3, wide ? 100'000 : 65'536);
        for (const bool drop : {false, true}) {
            const auto expected = sorted(documents, drop);
            for (const int64_t memory :
                 {int64_t{64} << 10, int64_t{300} << 10, int64_t{64} << 20}) {
                for (const int64_t guess : {int64_t{1}, int64_t{1} << 20, int64_t{1} << 30}) {
                    const Result result = spill(documents, {.memory = memory,
                                                            .expected_bytes = guess,
                                                            .wide_tokens = wide,
                                                            .drop_duplicates = drop});
                    EXPECT_EQ(result.documents, expected) << memory << " " << guess;
                    EXPECT_EQ(result.duplicates, drop ? 4000 : 0);
                    EXPECT_LE(result.peak_memory, memory + (64 << 10)) << memory << " " << guess;
                }
            }
        }
    }
}

TEST(DocumentSpill, SmallMemoryCutsBucketsAgain) {
    const auto documents = make_documents(6000, 1, 65'536);
    const Result small = spill(
        documents,
        {.memory = 64 << 10, .expected_bytes = 1, .wide_tokens = false, .drop_duplicates = true});
    const Result large = spill(
        documents,
        {.memory = 64 << 20, .expected_bytes = 1, .wide_tokens = false, .drop_duplicates = true});
    EXPECT_GT(small.splits, 0);
    EXPECT_EQ(large.splits, 0);
    EXPECT_EQ(small.documents, large.documents);
}

TEST(DocumentSpill, EqualDocumentsWithoutEnd) {
    const auto documents = make_documents(1, 20'000, 100);
    const DocumentSpill::Config config{.memory = 64 << 10,
                                       .expected_bytes = 1 << 20,
                                       .wide_tokens = false,
                                       .drop_duplicates = true};
    EXPECT_EQ(spill(documents, config).documents, sorted(documents, true));
    DocumentSpill::Config keep = config;
    keep.drop_duplicates = false;
    test::expect_error(
        ErrorKind::config, [&] { spill(documents, keep); }, "memory:", "deduplicate=true");
}

}  // namespace
}  // namespace plinth::core::data
