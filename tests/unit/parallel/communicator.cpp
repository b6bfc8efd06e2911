// SPDX-License-Identifier: Apache-2.0
#include "parallel/comm/communicator.h"

#include <gtest/gtest.h>

#include <map>
#include <thread>

#include "parallel/comm/launcher.h"
#include "parallel/comm/self.h"
#include "parallel/comm/threads.h"
#include "tests/distributed/communicator_body.h"
#include "tests/support/expect_error.h"

namespace plinth::test {
namespace {

using parallel::CommunicatorOptions;
using parallel::run_as_threads;
using parallel::SelfCommunicator;

const CommunicatorOptions patient{.name = "test"};
const CommunicatorOptions hasty{.name = "test", .time_limit = std::chrono::milliseconds(100)};

TEST(Communicator, SelfDoesEverything) {
    SelfCommunicator self;
    check_communicator(self);
}

class Threads : public testing::TestWithParam<int> {};
TEST_P(Threads, DoEverything) {
    run_as_threads(GetParam(), check_communicator, patient);
}
INSTANTIATE_TEST_SUITE_P(Ranks, Threads, testing::Values(1, 2, 3, 4, 5));

TEST(Communicator, AHangNamesTheCallAndWhereTheOthersAre) {
    const auto body = [](Communicator& comm) {
        int64_t one = 1;
        comm.all_reduce("loss", std::span(&one, 1), Reduce::sum);
        if (comm.rank() == 2) return;  // never comes to the next one
        comm.all_reduce("gradient norm", std::span(&one, 1), Reduce::sum);
    };
    expect_error(
        ErrorKind::ranks, [&] { run_as_threads(3, body, hasty); }, "collective #2 'gradient norm'",
        "group 'test'", "0.1 s", "rank 2 has last begun #1 'loss'", "on thread");
}

TEST(Communicator, AHangOfAMessageIsReported) {
    const auto body = [](Communicator& comm) {
        std::byte byte{};
        if (comm.rank() == 0) comm.receive("activations", Bytes(&byte, 1), 1);
    };
    expect_error(
        ErrorKind::ranks, [&] { run_as_threads(2, body, hasty); }, "message 'activations'",
        "rank 0 on thread 0");
}

TEST(Communicator, DifferentCallsAreNamed) {
    const auto body = [](Communicator& comm) {
        int64_t one = 1;
        comm.all_reduce(comm.rank() == 0 ? "loss" : "norm", std::span(&one, 1), Reduce::sum);
    };
    expect_error(
        ErrorKind::ranks, [&] { run_as_threads(2, body, patient); }, "'loss'", "'norm'");
}

TEST(Communicator, AnErrorOnOneRankEndsTheOthers) {
    std::string seen;
    const auto body = [&](Communicator& comm) {
        if (comm.rank() == 1) FAIL(data, "corpus.bin: line 3: not UTF-8");
        try {
            comm.barrier("wait for rank 1");
        } catch (const Error& error) {
            if (comm.rank() == 0) seen = error.what();
            throw;
        }
    };
    expect_error(
        ErrorKind::data, [&] { run_as_threads(3, body, patient); }, "line 3");
    EXPECT_NE(seen.find("rank 1 on thread 1 aborted: corpus.bin: line 3"), std::string::npos)
        << seen;
}

TEST(Communicator, ADroppedCallPoisonsTheGroup) {
    const auto body = [](Communicator& comm) {
        std::byte byte{};
        if (comm.rank() != 0) return;
        { Pending dropped = comm.start_receive("forgotten", Bytes(&byte, 1), 1); }
        comm.barrier("next");
    };
    expect_error(
        ErrorKind::ranks, [&] { run_as_threads(2, body, patient); }, "'next'", "'forgotten'",
        "dropped");
}

TEST(Communicator, TimeInWaitsIsCounted) {
    run_as_threads(2, [](Communicator& comm) {
        if (comm.rank() == 1) std::this_thread::sleep_for(std::chrono::milliseconds(60));
        comm.barrier("late");
        if (comm.rank() == 0) CHECK(comm.seconds_waited() > 0.04, "{}", comm.seconds_waited());
    });
}

parallel::Environment environment(std::map<std::string, std::string> values) {
    return [values = std::move(values)](const char* name) -> const char* {
        const auto found = values.find(name);
        return found == values.end() ? nullptr : found->second.c_str();
    };
}

TEST(Launcher, TasksThatDoNotSeeEachOtherAreRefused) {
    using parallel::check_launch;
    check_launch(1, environment({}));
    check_launch(8, environment({{"SLURM_NTASKS", "8"}}));
    check_launch(1, environment({{"SLURM_NTASKS", "1"}}));
    check_launch(1, environment({{"SLURM_NTASKS", "8"}, {"OMPI_COMM_WORLD_SIZE", "1"}}));
    check_launch(1, environment({{"SLURM_NTASKS", "8"}, {"SLURM_STEP_NUM_TASKS", "1"}}));
    expect_error(
        ErrorKind::config,
        [] {
            check_launch(1, environment({{"SLURM_NTASKS", "8"}}));
        },
        "8 tasks", "srun --mpi=pmix");
    expect_error(
        ErrorKind::config,
        [] {
            check_launch(1, environment({{"PMI_SIZE", "4"}}));
        },
        "another MPI");
}

TEST(Launcher, IsSeenInTheEnvironment) {
    EXPECT_FALSE(parallel::is_launched(environment({{"SLURM_NTASKS", "8"}})));
    EXPECT_TRUE(parallel::is_launched(environment({{"OMPI_COMM_WORLD_SIZE", "2"}})));
    EXPECT_EQ(parallel::launched_ranks(environment({{"OMPI_COMM_WORLD_SIZE", "2"}})), 2);
    EXPECT_EQ(parallel::launched_ranks(environment({{"PMI_SIZE", "3"}})), 3);
    EXPECT_EQ(parallel::launched_ranks(environment({{"SLURM_NTASKS", "8"}})), 1);
    EXPECT_TRUE(parallel::is_launched(environment({{"PMIX_RANK", "0"}})));
}

}  // namespace
}  // namespace plinth::test
