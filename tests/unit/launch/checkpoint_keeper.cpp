// SPDX-License-Identifier: Apache-2.0
#include "launch/checkpoint_keeper.h"

#include <gtest/gtest.h>

#include "parallel/comm/self.h"
#include "tests/support/temporary_folder.h"

namespace plinth::launch {
namespace {

class CheckpointKeeperTest : public ::testing::Test {
  protected:
    bool is_due(int64_t step) {
        state.step.step = step;
        return keeper.is_due(state);
    }
    void save(int64_t step) {
        state.step.step = step;
        keeper.save(state);
    }

    test::TemporaryFolder folder;
    parallel::SelfCommunicator world;
    Session session{world, 1};
    CheckpointSection config{.folder = folder.path(), .every = 10, .async = false};
    CheckpointKeeper keeper{config, session, {}, "", {}, {}};
    TrainingState state{.run_id = checkpoints::new_run_id()};
};

TEST_F(CheckpointKeeperTest, SavesAreDueAtMultiples) {
    for (int64_t step = 0; step < 10; ++step)
        EXPECT_FALSE(is_due(step)) << step;
    EXPECT_TRUE(is_due(10));
    EXPECT_EQ(keeper.longest_save_seconds(), 0.0);
    save(10);
    EXPECT_GT(keeper.longest_save_seconds(), 0.0);
    for (int64_t step = 10; step < 20; ++step)
        EXPECT_FALSE(is_due(step)) << step;
    EXPECT_TRUE(is_due(20));
}

TEST_F(CheckpointKeeperTest, ASaveThatWasPutOffStaysDueAndMovesNoLaterOne) {
    EXPECT_TRUE(is_due(10));
    EXPECT_TRUE(is_due(13));
    save(13);
    EXPECT_FALSE(is_due(13));
    EXPECT_FALSE(is_due(19));
    EXPECT_TRUE(is_due(20));
}

TEST_F(CheckpointKeeperTest, ASaveByTheClockMovesNoLaterOne) {
    keeper.agree(true);
    EXPECT_TRUE(is_due(4));
    save(4);
    EXPECT_FALSE(is_due(9));
    EXPECT_TRUE(is_due(10));
}

}  // namespace
}  // namespace plinth::launch
