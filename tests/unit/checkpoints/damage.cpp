// SPDX-License-Identifier: Apache-2.0
// Whatever happens to the bytes of a checkpoint, verify names the file, and no reader takes it for
// sound.
#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "checkpoints/format.h"
#include "checkpoints/reader.h"
#include "checkpoints/restore.h"
#include "checkpoints/verify.h"
#include "checkpoints/writer.h"
#include "core/io/crc32c.h"
#include "tests/support/expect_error.h"
#include "tests/support/memory_files.h"
#include "tests/unit/checkpoints/state.h"

namespace plinth::checkpoints::test {
namespace {

using plinth::test::expect_error;
using plinth::test::MemoryFiles;

std::string save(MemoryFiles& files, const State& state, int64_t step,
                 const std::string& root = "run", const std::string& run_id = run_a) {
    core::SelfRanks ranks;
    Writer writer(files, ranks, {.threads = 1});
    const SaveOutcome outcome = writer.save(request(state, step, root, run_id));
    CHECK(outcome.committed, "{}", outcome.message);
    return outcome.folder;
}

/// Empty if a line of verify names `path` and `cause`, and reading everything fails;
/// else what went wrong.
std::string undetected(MemoryFiles& files, const std::string& folder, const std::string& path,
                       const std::string& cause) {
    const std::vector<std::string> problems = verify(files, folder);
    const bool named = std::any_of(problems.begin(), problems.end(), [&](const std::string& line) {
        return line.find(path) != std::string::npos && line.find(cause) != std::string::npos;
    });
    if (!named)
        return problems.empty() ? "not found" : "'" + cause + "' not named: " + problems.front();
    try {
        const Checkpoint checkpoint = Checkpoint::open(files, folder);
        for (const TensorInfo& info : checkpoint.manifest().tensors) {
            std::vector<std::byte> out(static_cast<size_t>(info.global_shape.elements()) *
                                       size_of(info.dtype));
            checkpoint.read(info.name, core::Shard::whole(info.global_shape), out.data());
        }
    } catch (const Error&) {
        return "";
    }
    return "loaded";
}

/// What verify must say is wrong when one bit differs at `offset` of a file of `size` bytes.
std::string cause_of_flip(const std::string& path, size_t offset, size_t size) {
    if (path.ends_with("/COMMIT")) return "its checksum does not hold";
    if (path.find("/files/") != std::string::npos) return "its hash is not the one in the manifest";
    const bool is_first = offset < superblock_bytes;
    if (is_first || offset >= size - superblock_bytes) {
        const size_t within = is_first ? offset : offset - (size - superblock_bytes);
        const char* const place = is_first ? "first" : "last";
        return within < 8 ? fmt::format("the {} block is not a Plinth superblock", place)
                          : fmt::format("the checksum of the {} block is wrong", place);
    }
    if (path.ends_with("/manifest")) return "its hash is not the one in COMMIT";
    if (path.ends_with(".index")) return "its checksum is not the one in the manifest";
    return "the checksum does not hold";
}

/// What verify must say is wrong when `bytes` stand where `good` ones of the same number were.
std::string cause_of_change(const std::string& path, const std::string& good,
                            const std::string& bytes) {
    const auto first_from = [&](size_t begin) {
        while (begin < good.size() && bytes[begin] == good[begin])
            ++begin;
        return begin;
    };
    // Both superblocks are looked at before what lies between them.
    const size_t anywhere = first_from(0), last = good.size() - superblock_bytes;
    const bool is_in_first = anywhere < superblock_bytes;
    const size_t at = is_in_first || first_from(last) == good.size() ? anywhere : first_from(last);
    return cause_of_flip(path, at, good.size());
}

/// What verify must say is wrong when a file of `good` bytes has `size`.
std::string cause_of_size(const std::string& path, size_t size, size_t good) {
    if (path.ends_with("/COMMIT")) return "its checksum does not hold";
    return fmt::format("has {} bytes and should have {}: cut or replaced", size, good);
}

TEST(Damage, EverySingleBitFlipIsFoundAndNamed) {
    MemoryFiles files;
    const std::string folder = save(files, replicated(tiny_table(), 1), 1);
    ASSERT_TRUE(verify(files, folder).empty());
    size_t flips = 0;
    for (const std::string& path : files.paths()) {
        std::string& bytes = files.bytes(path);
        for (size_t bit = 0; bit < 8 * bytes.size(); ++bit, ++flips) {
            bytes[bit / 8] ^= static_cast<char>(1 << bit % 8);
            ASSERT_EQ(undetected(files, folder, path, cause_of_flip(path, bit / 8, bytes.size())),
                      "")
                << path << " bit " << bit;
            bytes[bit / 8] ^= static_cast<char>(1 << bit % 8);
        }
    }
    EXPECT_GT(flips, 15000u);
    EXPECT_TRUE(verify(files, folder).empty());
}

TEST(Damage, EveryTruncationAndEveryZeroedBlockIsFoundAndNamed) {
    MemoryFiles files;
    const std::string folder = save(files, replicated(tiny_table(), 1), 1);
    for (const std::string& path : files.paths()) {
        const std::string good = files.bytes(path);
        for (size_t size = 0; size < good.size(); ++size) {
            files.bytes(path) = good.substr(0, size);
            ASSERT_EQ(undetected(files, folder, path, cause_of_size(path, size, good.size())), "")
                << path << " cut to " << size;
        }
        for (size_t at = 0; at < good.size(); at += 64) {
            std::string& bytes = files.bytes(path) = good;
            std::fill_n(bytes.begin() + static_cast<std::ptrdiff_t>(at),
                        std::min<size_t>(64, good.size() - at), '\0');
            if (bytes == good) continue;
            ASSERT_EQ(undetected(files, folder, path, cause_of_change(path, good, bytes)), "")
                << path << " zeroed at " << at;
        }
        files.bytes(path) = good + '\0';
        const std::string longer = cause_of_size(path, good.size() + 1, good.size());
        ASSERT_EQ(undetected(files, folder, path, longer), "") << path << " longer";
        files.bytes(path) = good;
    }
}

TEST(Damage, EveryMissingFileIsNamed) {
    MemoryFiles files;
    const std::string folder = save(files, replicated(tiny_table(), 1), 1);
    for (const std::string& path : files.paths()) {
        const auto copy = files.clone();
        copy->remove(path);
        const char* const cause = path.ends_with("/COMMIT")
                                      ? "is missing: not a checkpoint, or one that was never"
                                      : "no such file";
        EXPECT_EQ(undetected(*copy, folder, path, cause), "") << path;
    }
}

/// Any mix of the files of two checkpoints is found, also when only the tensor bytes differ: one
/// that is not from here is named for its size or for what it says it belongs to.
void mixes(MemoryFiles& files, const std::string& into, const std::string& from) {
    const auto names = [&](const std::string& folder) {
        std::vector<std::string> found;
        for (const std::string& path : files.paths())
            if (path.starts_with(folder + "/")) found.push_back(path.substr(folder.size() + 1));
        return found;
    };
    const std::vector<std::string> all = names(into);
    ASSERT_EQ(all, names(from));
    for (size_t mix = 1; mix < 1u << all.size(); ++mix) {
        const auto copy = files.clone();
        std::vector<std::string> changed;
        for (size_t i = 0; i < all.size(); ++i) {
            if (!(mix >> i & 1)) continue;
            const std::string& other = files.bytes(from + "/" + all[i]);
            std::string& mine = copy->bytes(into + "/" + all[i]);
            if (mine != other) changed.push_back(into + "/" + all[i]);
            mine = other;
        }
        std::vector<std::string> missed;
        const bool is_found = std::any_of(changed.begin(), changed.end(), [&](const auto& path) {
            for (const char* cause : {"belongs to", "cut or replaced"}) {
                missed.push_back(undetected(*copy, into, path, cause));
                if (missed.back().empty()) return true;
            }
            return false;
        });
        ASSERT_TRUE(changed.empty() || is_found)
            << into << " mix " << mix << ": " << fmt::format("{}", missed);
    }
}

TEST(Damage, FilesOfAnotherStepAttemptOrRunAreFound) {
    MemoryFiles files;
    const std::string step1 = save(files, replicated(tiny_table(), 1), 1);
    const std::string step2 = save(files, replicated(tiny_table(), 1), 2);
    const std::string again = save(files, replicated(tiny_table(), 1), 1);
    mixes(files, step1, step2);
    mixes(files, step1, again);
    const std::string other = save(files, replicated(tiny_table(), 1), 1, "other", run_b);
    // A whole checkpoint of another run is sound by itself: the run id tells a resume.
    const auto copy = files.clone();
    for (const std::string& path : files.paths())
        if (path.starts_with(step1 + "/") && !path.ends_with(commit_name)) {
            copy->bytes(path) = files.bytes(other + path.substr(step1.size()));
            EXPECT_NE(verify(*copy, step1).size(), 0u) << path;
        }
}

TEST(Damage, TensorAndOffsetAreNamed) {
    MemoryFiles files;
    const std::string folder = save(files, replicated(larger_table(), 1), 1);
    const Checkpoint checkpoint = Checkpoint::open(files, folder);
    const Location& where = checkpoint.locations("model.a").at(0);
    ASSERT_EQ(where.piece.crc32c.size(), 2u);
    const std::string path = folder + "/" + data_name(where.file);
    const uint64_t second = where.piece.offset + block_bytes;
    files.bytes(path)[second + 5] ^= 1;
    const std::vector<std::string> problems = verify(files, folder);
    ASSERT_EQ(problems.size(), 1u);
    for (const std::string& part : {path, std::string("model.a"), std::to_string(second)})
        EXPECT_NE(problems[0].find(part), std::string::npos) << problems[0];
    // Only what is read is checked: the other tensors and the first block still load.
    core::Shard first = core::Shard::whole({700, 513});
    first.end = 1000;
    std::vector<float> out(700 * 513);
    checkpoint.read("model.a", first, out.data());
    expect_error(
        ErrorKind::checkpoint,
        [&] {
            checkpoint.read("model.a", core::Shard::whole({700, 513}), out.data());
        },
        path, "model.a", std::to_string(second));
}

TEST(Damage, TheNewestSoundOneIsUsedAndTheCauseNamed) {
    MemoryFiles files;
    core::SelfRanks ranks;
    std::vector<std::string> folders;
    for (int64_t step = 1; step <= 4; ++step)
        folders.push_back(save(files, replicated(tiny_table(), static_cast<uint64_t>(step)), step));
    files.bytes(folders[3] + "/COMMIT")[0] ^= 1;            // seen when it is opened
    files.bytes(folders[2] + "/" + data_name(0))[70] ^= 1;  // seen when it is loaded
    files.remove(folders[1] + "/COMMIT");                   // no checkpoint at all
    std::vector<std::string> warnings;
    const Warn warn = [&](const std::string& line) { warnings.push_back(line); };
    State state = replicated(tiny_table(), 9);
    const auto restored = restore_newest(files, ranks, "run", state.tensors, warn);
    ASSERT_TRUE(restored);
    EXPECT_EQ(restored->manifest.step, 1);
    EXPECT_TRUE(state == replicated(tiny_table(), 1));
    ASSERT_EQ(warnings.size(), 2u);
    EXPECT_NE(warnings[0].find(folders[3] + "/COMMIT"), std::string::npos) << warnings[0];
    EXPECT_NE(warnings[1].find(data_name(0)), std::string::npos) << warnings[1];
    // With none left, the run must not start from nothing in silence.
    files.bytes(folders[0] + "/manifest")[100] ^= 1;
    expect_error(
        ErrorKind::checkpoint, [&] { restore_newest(files, ranks, "run", state.tensors, warn); },
        "no checkpoint is sound", folders[0] + "/manifest", data_name(0));
}

TEST(Damage, WhatIsRestoredIsAcceptedFirstAlsoWhenItIsAnOlderOne) {
    MemoryFiles files;
    core::SelfRanks ranks;
    save(files, replicated(tiny_table(), 1), 1);
    const std::string newest = save(files, replicated(tiny_table(), 2), 2);
    files.bytes(newest + "/" + data_name(0))[70] ^= 1;  // seen when it is loaded
    std::vector<int64_t> seen;
    State state = replicated(tiny_table(), 9);
    const auto accept = [&](const Manifest& manifest) {
        seen.push_back(manifest.step);
        REQUIRE(checkpoint, manifest.step != 1, "another configuration");
    };
    expect_error(
        ErrorKind::checkpoint,
        [&] {
            restore_newest(
                files, ranks, "run", state.tensors, [](const auto&) {}, {}, accept);
        },
        "another configuration");
    EXPECT_EQ(seen, (std::vector<int64_t>{2, 1}));
}

TEST(Damage, ANewerFormatIsNotPassedOver) {
    MemoryFiles files;
    core::SelfRanks ranks;
    save(files, replicated(tiny_table(), 1), 1);
    const std::string folder = save(files, replicated(tiny_table(), 2), 2);
    std::string text = "plinth checkpoint 2\nsomething new\n";
    text += fmt::format("crc32c {:08x}\n", core::io::crc32c(0, std::as_bytes(std::span(text))));
    files.bytes(folder + "/COMMIT") = text;
    State state = replicated(tiny_table(), 9);
    expect_error(
        ErrorKind::checkpoint, [&] { restore_newest(files, ranks, "run", state.tensors, {}); },
        "format 2", folder);
}

}  // namespace
}  // namespace plinth::checkpoints::test
