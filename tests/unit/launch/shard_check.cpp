// SPDX-License-Identifier: Apache-2.0
#include "launch/shard_check.h"

#include <gtest/gtest.h>

#include <thread>

#include "parallel/comm/ranks_of.h"
#include "parallel/comm/threads.h"
#include "tests/support/expect_error.h"
#include "tests/support/forwarding_files.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tiny_dataset.h"

namespace plinth::launch {
namespace {

using std::chrono::milliseconds;

/// Waits before it reads a file whose path ends so.
class SlowReads final : public test::ForwardingFiles {
  public:
    SlowReads(core::io::FileSystem& base, std::string suffix, milliseconds delay)
        : ForwardingFiles(base), suffix_(std::move(suffix)), delay_(delay) {}
    std::unique_ptr<core::io::ReadableFile> open_read(const std::string& path) override {
        if (path.ends_with(suffix_)) std::this_thread::sleep_for(delay_);
        return ForwardingFiles::open_read(path);
    }

  private:
    std::string suffix_;
    milliseconds delay_;
};

/// Two data sets of two shards each; ranks that give up on each other after half a second.
class ShardCheck : public testing::Test {
  protected:
    ShardCheck() {
        for (const std::string name : {"a", "b"}) {
            sets_.push_back(folder_ / name);
            test::write_dataset(sets_.back(), name, 257, {{{1, 2, 3}}, {{4, 5}, {6, 7, 8}}});
            section_.sources.push_back({.path = sets_.back(), .weight = 1, .name = ""});
        }
    }

    void damage(const std::string& path) {
        const auto file = files_.open_write(path, core::io::OpenMode::update);
        file->write_at(0, std::as_bytes(std::span("?", 1)));
        file->close();
    }

    /// The message of the error that the check ended with on each rank; "" where it passed.
    std::vector<std::string> check(core::io::FileSystem& files, const ShardCheckPace& pace,
                                   int ranks = 2) {
        std::vector<std::string> messages(static_cast<size_t>(ranks));
        parallel::run_as_threads(ranks,
                                 [&](parallel::Communicator& world) {
                                     parallel::RanksOf group(world);
                                     try {
                                         verify_shards(
                                             section_, files, group,
                                             [&](const std::string& line) {
                                                 if (group.rank() == 0) said_.push_back(line);
                                             },
                                             pace);
                                     } catch (const Error& error) {
                                         if (error.kind() != ErrorKind::data) throw;
                                         messages[static_cast<size_t>(group.rank())] = error.what();
                                     }
                                 },
                                 {.name = "test", .time_limit = milliseconds(500)});
        return messages;
    }

    core::io::FileSystem& files_ = core::io::posix();
    test::TemporaryFolder folder_;
    std::vector<std::string> sets_;
    DataSection section_;
    std::vector<std::string> said_;
};

TEST_F(ShardCheck, PassesSoundSetsOnAnyNumberOfRanks) {
    for (const int ranks : {1, 2, 3, 5})
        for (const std::string& message : check(files_, {}, ranks))
            EXPECT_EQ(message, "");
    EXPECT_TRUE(said_.empty());
}

// One rank's file takes longer than a collective may.
TEST_F(ShardCheck, ASlowDiskIsNoHang) {
    SlowReads slow(files_, "a/train-00001.bin", milliseconds(1500));
    for (const std::string& message : check(slow, {.meet = milliseconds(50)}))
        EXPECT_EQ(message, "");
}

TEST_F(ShardCheck, WithoutMeetingItWouldBeOne) {
    SlowReads slow(files_, "a/train-00001.bin", milliseconds(1500));
    test::expect_error(
        ErrorKind::ranks, [&] { check(slow, {.meet = milliseconds(10'000)}); }, "0.5 s");
}

TEST_F(ShardCheck, SaysHowFarItIs) {
    SlowReads slow(files_, "b/train-00000.idx", milliseconds(600));
    check(slow, {.meet = milliseconds(20), .say = milliseconds(200)});
    ASSERT_GE(said_.size(), 1u);
    EXPECT_LE(said_.size(), 3u);
    EXPECT_EQ(said_.front(), "data.verify: 3 of 4 shards, 0.00 GiB hashed");
}

TEST_F(ShardCheck, ADamagedShardEndsItOnAllRanksByName) {
    damage(sets_[0] + "/train-00001.bin");  // the second shard: of rank 1
    for (const std::string& message : check(files_, {})) {
        EXPECT_TRUE(message.starts_with("rank 1: ")) << message;
        EXPECT_NE(message.find(sets_[0] + "/train-00001.bin: its hash"), std::string::npos);
    }
    for (const std::string& message : check(files_, {}, 1))
        EXPECT_TRUE(message.starts_with(sets_[0] + "/train-00001.bin: its hash")) << message;
}

// What is found stops the reading of ranks that would go on for long.
TEST_F(ShardCheck, ADamagedShardStopsTheOthers) {
    damage(sets_[0] + "/train-00001.bin");
    damage(sets_[1] + "/train-00000.bin");  // of rank 0, after a slow one
    SlowReads slow(files_, "a/train-00000.bin", milliseconds(700));
    for (const std::string& message : check(slow, {.meet = milliseconds(50)}))
        EXPECT_TRUE(message.starts_with("rank 1: ")) << message;
}

}  // namespace
}  // namespace plinth::launch
