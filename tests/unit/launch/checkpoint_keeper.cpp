// SPDX-License-Identifier: Apache-2.0
#include "launch/checkpoint_keeper.h"

#include <gtest/gtest.h>

#include "parallel/comm/self.h"
#include "tests/support/expect_error.h"
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
    std::optional<checkpoints::Checkpoint> newest_checkpoint() {
        return checkpoints::open_newest(session.files(), folder.path(),
                                        [](const std::string& line) { ADD_FAILURE() << line; });
    }

    test::TemporaryFolder folder;
    parallel::SelfCommunicator world;
    Session session{world, 1};
    CheckpointSection config{.folder = folder.path(), .every = 10, .async = false};
    CheckpointKeeper keeper{config, session, {}, {}};
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

TEST_F(CheckpointKeeperTest, TrainingStandsStillForAWholeSaveThatIsNotInTheBackground) {
    EXPECT_EQ(keeper.blocked_seconds(), 0.0);
    save(10);
    EXPECT_GE(keeper.blocked_seconds(), keeper.longest_save_seconds());
    const double before = keeper.blocked_seconds();
    keeper.before_update();
    EXPECT_GE(keeper.blocked_seconds(), before);
}

/// The lock of the folder becomes another job's.
void take_over(const std::string& folder) {
    const core::io::LockRecord other{
        .holder = {.host = "there", .boot = "", .pid_namespace = "", .pid = 17},
        .token = core::io::new_token()};
    core::io::write_atomically(core::io::posix(), core::io::join(folder, core::io::run_lock_name),
                               other.encode());
}

TEST_F(CheckpointKeeperTest, AJobThatLostItsLockBeginsNoSave) {
    session.locks().acquire({{folder.path(), "checkpoint.folder"}});
    save(10);
    take_over(folder.path());
    state.step.step = 20;
    for (const bool at_the_end : {false, true})
        test::expect_error(
            ErrorKind::io, [&] { at_the_end ? keeper.finish(state) : keeper.save(state); },
            "process 17 on there has taken over this job's lock");
    const auto newest = newest_checkpoint();
    ASSERT_TRUE(newest);
    EXPECT_EQ(newest->manifest().step, 10);
}

TEST_F(CheckpointKeeperTest, AJobThatLosesItsLockDuringASaveCommitsNothing) {
    session.locks().acquire({{folder.path(), "checkpoint.folder"}});
    config.async = true;
    CheckpointKeeper background{config, session, {}, {}};
    state.step.step = 10;
    background.save(state);
    take_over(folder.path());
    test::expect_error(
        ErrorKind::io, [&] { background.settle(); }, "process 17 on there has taken over");
    EXPECT_FALSE(newest_checkpoint());
}

TEST_F(CheckpointKeeperTest, ASaveByTheClockMovesNoLaterOne) {
    keeper.agree(true);
    EXPECT_TRUE(is_due(4));
    save(4);
    EXPECT_FALSE(is_due(9));
    EXPECT_TRUE(is_due(10));
}

TEST_F(CheckpointKeeperTest, BytesThatAResumeReadsAreProgress) {
    constexpr size_t count = 100;
    std::vector<float> values(count, 1.0f);
    std::vector<core::StateTensor> tensors;
    for (size_t i = 0; i < count; ++i)
        tensors.push_back(
            {fmt::format("tensor.{}", i), DType::f32, core::Shard::whole({}), &values[i]});
    CheckpointKeeper saver{config, session, tensors, {}};
    saver.save(state);
    const auto ticks = [this] { return session.activity().look().ticks; };
    const uint64_t before = ticks();
    EXPECT_TRUE(saver.resume(state, {}));
    EXPECT_GE(ticks() - before, count);
}

TEST_F(CheckpointKeeperTest, KeepsTheNewestAndEveryNth) {
    const auto kept_of = [&](CheckpointSection section) {
        const test::TemporaryFolder root;
        section.folder = root.path();
        section.async = false;
        CheckpointKeeper saver(section, session, {}, {});
        for (const int64_t step : {10, 20, 30, 40, 50}) {
            state.step.step = step;
            saver.save(state);
        }
        saver.settle();
        std::vector<uint64_t> steps;
        for (const auto& candidate : checkpoints::list_checkpoints(session.files(), root.path()))
            steps.push_back(candidate.step);
        return steps;
    };
    EXPECT_EQ(kept_of({.keep = 1}), (std::vector<uint64_t>{50}));
    EXPECT_EQ(kept_of({.keep = 2, .keep_every = 20}), (std::vector<uint64_t>{50, 40, 20}));
    EXPECT_EQ(kept_of({.keep = 0, .keep_every = 20}).size(), 5u);
}

}  // namespace
}  // namespace plinth::launch
