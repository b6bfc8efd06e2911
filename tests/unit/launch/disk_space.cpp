// SPDX-License-Identifier: Apache-2.0
#include "launch/disk_space.h"

#include <gtest/gtest.h>

#include <vector>

#include "launch/config/load.h"
#include "launch/config/model_size.h"
#include "tests/support/expect_error.h"
#include "tests/support/forwarding_files.h"
#include "tests/support/memory_files.h"

namespace plinth::launch {
namespace {

/// A disk with so much left.
class SmallDisk final : public test::ForwardingFiles {
  public:
    explicit SmallDisk(core::io::FileSystem& base) : ForwardingFiles(base) {}
    uint64_t free_bytes(const std::string& folder) override {
        asked = folder;
        return free;
    }
    uint64_t free = 0;
    std::string asked;
};

class DiskSpaceTest : public ::testing::Test {
  protected:
    DiskSpaceTest() {
        config.train.steps = 100;
        config.checkpoint.every = 10;
        config.checkpoint.keep = 3;
        config.checkpoint.folder = "runs/a/checkpoints";
        files.make_directories("runs");
    }
    void commit(int64_t step) {
        const std::string folder = fmt::format("runs/a/checkpoints/step-{:012}.attempt-0001", step);
        files.make_directories(folder);
        files.open_write(folder + "/COMMIT", core::io::OpenMode::truncate);
    }
    uint64_t size() const { return 12 * static_cast<uint64_t>(parameter_count(config.model)); }
    /// With room for so many checkpoints less `missing` bytes.
    void check(uint64_t checkpoints, uint64_t missing = 0, int64_t steps_done = 0) {
        disk.free = checkpoints * size() - missing;
        require_disk_space(disk, config, steps_done,
                           [this](const std::string& line) { warnings.push_back(line); });
    }

    test::MemoryFiles files;
    SmallDisk disk{files};
    RunConfig config = parse_config<RunConfig>("train:\n  steps: 5000\n", "test");
    std::vector<std::string> warnings;
};

TEST_F(DiskSpaceTest, AllThatAreKeptAndTheOneBeingWrittenMustFit) {
    EXPECT_NO_THROW(check(4));
    EXPECT_EQ(disk.asked, "runs") << "the part of the folder that is there";
    test::expect_error(
        ErrorKind::io, [&] { check(4, 1); }, "checkpoint.folder: runs/a/checkpoints: 4 checkpoints",
        fmt::format("need {} bytes", 4 * size()), fmt::format("{} are free", 4 * size() - 1),
        "free 1 more", "lower checkpoint.keep (3;");
    EXPECT_TRUE(warnings.empty());
}

TEST_F(DiskSpaceTest, MomentsInBfloat16TakeHalfTheirRoom) {
    config.optimizer.moments = ComputeType::bf16;
    const uint64_t four = size() / 12 * 8 * 4;
    disk.free = four;
    EXPECT_NO_THROW(require_disk_space(disk, config, 0, {}));
    disk.free = four - 1;
    EXPECT_THROW(require_disk_space(disk, config, 0, {}), Error);
}

TEST_F(DiskSpaceTest, CheckpointsThatAreThereNeedNoMoreRoom) {
    for (const int64_t step : {10, 20, 30})
        commit(step);
    EXPECT_NO_THROW(check(1, 0, 30));
    EXPECT_EQ(disk.asked, "runs/a/checkpoints");
    EXPECT_THROW(check(1, 1, 30), Error);
    commit(40);  // a save that was killed before it removed the oldest
    EXPECT_NO_THROW(check(1, 0, 40));
    EXPECT_THROW(check(1, 1, 40), Error);
}

TEST_F(DiskSpaceTest, ARunOfFewSavesNeedsNoMoreThanThese) {
    config.checkpoint.every = 0;  // one at the end
    EXPECT_NO_THROW(check(1));
    EXPECT_THROW(check(1, 1), Error);
    config.checkpoint.every = 60;  // and one at step 60
    EXPECT_NO_THROW(check(2));
    EXPECT_THROW(check(2, 1), Error);
    config.checkpoint.every_seconds = 1;  // any number
    EXPECT_NO_THROW(check(4));
    EXPECT_THROW(check(4, 1), Error);
    EXPECT_NO_THROW(check(0, 0, 100)) << "a run that has ended saves nothing";
}

TEST_F(DiskSpaceTest, WhatIsKeptForGoodIsWarnedOf) {
    config.checkpoint.keep_every = 25;  // a save is due at 50 and 100 of these
    check(6);
    EXPECT_TRUE(warnings.empty());
    check(6, 1);
    ASSERT_EQ(warnings.size(), 1u);
    EXPECT_NE(warnings[0].find("checkpoint.keep_every=25 keeps 2 for good"), std::string::npos)
        << warnings[0];
    warnings.clear();
    config.checkpoint.keep = 0;
    check(10);
    EXPECT_TRUE(warnings.empty());
    check(10, 1);
    ASSERT_EQ(warnings.size(), 1u);
    EXPECT_NE(warnings[0].find("checkpoint.keep=0 keeps all"), std::string::npos) << warnings[0];
    EXPECT_THROW(check(1, 1), Error);
}

}  // namespace
}  // namespace plinth::launch
