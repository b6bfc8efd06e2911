// SPDX-License-Identifier: Apache-2.0
#include "parallel/data_parallel/step_scalars.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>

#include "parallel/comm/self.h"
#include "parallel/comm/threads.h"
#include "tests/support/expect_error.h"

namespace plinth::test {
namespace {

using parallel::Communicator;
using parallel::Flag;
using parallel::StepScalars;

double loss(int64_t slot) {
    return (slot % 2 ? -1.0 : 1.0) * 1e15 + 0.3 * static_cast<double>(slot);
}

TEST(StepScalars, SameBitsForEveryNumberOfRanks) {
    constexpr int64_t slots = 11;
    double expected = 0.0, expected_z = 0.0;
    for (int64_t slot = 0; slot < slots; ++slot) {
        expected += loss(slot);
        expected_z += 1e-3 * loss(slot + 1);
    }
    for (int ranks : {1, 2, 3, 4, 5})
        parallel::run_as_threads(ranks, [&](Communicator& comm) {
            StepScalars scalars(slots, comm);
            for (int64_t slot = comm.rank(); slot < slots; slot += comm.size())
                scalars.set_slot(slot, loss(slot), (int64_t{1} << 54) + slot,
                                 1e-3 * loss(slot + 1));
            scalars.add_tokens(3);
            scalars.add_tokens(comm.rank());
            if (comm.rank() == comm.size() - 1) scalars.raise(Flag::stop);
            scalars.raise(Flag::save_finished);
            scalars.set_busy_seconds(1.0 + comm.rank());
            scalars.reduce(comm);
            CHECK(std::bit_cast<uint64_t>(scalars.loss_sum()) == std::bit_cast<uint64_t>(expected),
                  "{} and {}", scalars.loss_sum(), expected);
            CHECK(std::bit_cast<uint64_t>(scalars.z_loss_sum()) ==
                      std::bit_cast<uint64_t>(expected_z),
                  "{} and {}", scalars.z_loss_sum(), expected_z);
            CHECK(scalars.tokens() == 3 * ranks + ranks * (ranks - 1) / 2, "{}", scalars.tokens());
            CHECK(scalars.weight() == slots * (int64_t{1} << 54) + 55, "{}", scalars.weight());
            CHECK(scalars.raised(Flag::stop) == 1 && scalars.raised(Flag::save) == 0, "flags");
            CHECK(scalars.raised(Flag::save_finished) == comm.size(), "all finished");
            CHECK(scalars.busiest_rank() == comm.size() - 1 && scalars.idlest_rank() == 0, "times");
            CHECK(scalars.busy_seconds(0) == 1.0, "time of rank 0");
        });
}

TEST(StepScalars, ANotANumberTravels) {
    parallel::run_as_threads(2, [](Communicator& comm) {
        StepScalars scalars(2, comm);
        scalars.set_slot(comm.rank(),
                         comm.rank() == 0 ? 1.0 : std::numeric_limits<double>::quiet_NaN(), 1);
        scalars.reduce(comm);
        CHECK(std::isnan(scalars.loss_sum()), "{}", scalars.loss_sum());
    });
}

TEST(StepScalars, ASlotIsSetByOneRank) {
    parallel::SelfCommunicator self;
    StepScalars missing(2, self), twice(1, self);
    missing.set_slot(0, 1.0, 1);
    expect_error(
        ErrorKind::internal, [&] { missing.reduce(self); }, "slot 1 was set 0 times");
    twice.set_slot(0, 1.0, 1);
    twice.set_slot(0, 1.0, 1);
    expect_error(
        ErrorKind::internal, [&] { twice.reduce(self); }, "slot 0 was set 2 times");
}

}  // namespace
}  // namespace plinth::test
