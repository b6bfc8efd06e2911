// SPDX-License-Identifier: Apache-2.0
#include "parallel/comm/groups.h"

#include <gtest/gtest.h>

#include "parallel/comm/threads.h"

namespace plinth::test {
namespace {

using parallel::Axis;
using parallel::Communicator;
using parallel::Groups;

/// The ranks of a group, as its members hear them from each other.
std::vector<int64_t> members(Communicator& group, int rank) {
    std::vector<int64_t> all(static_cast<size_t>(group.size()));
    all[static_cast<size_t>(group.rank())] = rank;
    group.all_reduce("members", std::span(all), parallel::Reduce::sum);
    return all;
}

TEST(Groups, EachAxisJoinsTheRanksThatDifferAlongItOnly) {
    parallel::run_as_threads(8, [](Communicator& world) {
        const Groups groups(world, {.pipeline = 2, .data = 2, .context = 1, .tensor = 2});
        for (const Axis axis : parallel::axes) {
            const auto expected = groups.mesh().group(world.rank(), axis);
            const auto found = members(groups.along(axis), world.rank());
            CHECK(std::equal(found.begin(), found.end(), expected.begin(), expected.end()),
                  "{} of rank {}", parallel::key_of(axis), world.rank());
            CHECK(groups.along(axis).rank() == groups.coordinate(axis), "{}",
                  parallel::key_of(axis));
        }
        CHECK(groups.along(Axis::tensor).name() == "tensor", "{}",
              groups.along(Axis::tensor).name());
        const bool speaks = groups.speaks_for_slot();
        std::vector<int64_t> speakers(1, speaks ? 1 : 0);
        world.all_reduce("speakers", std::span(speakers), parallel::Reduce::sum);
        CHECK(speakers[0] == 2, "one a data coordinate, got {}", speakers[0]);
    });
}

TEST(Groups, AWorldOfOneAxisIsItsGroup) {
    parallel::run_as_threads(3, [](Communicator& world) {
        const Groups groups(world, {});
        CHECK(&groups.along(Axis::data) == &world, "no second communicator for the same ranks");
        CHECK(groups.along(Axis::tensor).size() == 1 && groups.speaks_for_slot(), "alone");
    });
}

}  // namespace
}  // namespace plinth::test
