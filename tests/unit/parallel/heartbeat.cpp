// SPDX-License-Identifier: Apache-2.0
// What the heartbeat stands on: the rank's activity, beats, addresses, processes. What it does with
// ranks that really hang is tests/integration/hangs.py.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <future>
#include <map>
#include <mutex>
#include <thread>

#include "kernels/runtime/thread_pool.h"
#include "parallel/comm/beat.h"
#include "parallel/comm/datagrams.h"
#include "parallel/comm/hang_watch.h"
#include "parallel/comm/process.h"
#include "parallel/comm/threads.h"

namespace plinth::test {
namespace {

using parallel::Activity;
using parallel::Address;
using parallel::Beat;
using parallel::Communicator;
using parallel::DatagramSocket;
using parallel::Phase;
using parallel::PhaseMark;
using parallel::Process;

TEST(Activity, KnowsTheCallsOfAllGroups) {
    std::mutex mutex;
    std::map<int, std::vector<Activity::Group>> groups;
    parallel::run_as_threads(4, [&](Communicator& world) {
        const auto pair = world.split(world.rank() / 2, "pair");
        const auto parity = world.split(world.rank() % 2, "parity");
        pair->barrier("in pairs");
        const Activity::Look look = world.activity().look();
        EXPECT_EQ(look.newest.label, "in pairs");
        EXPECT_EQ(look.newest.group_name, "pair");
        EXPECT_FALSE(look.waits);
        const std::lock_guard lock(mutex);
        groups[world.rank()] = look.groups;
    });
    const auto id = [&](int rank, size_t group) { return groups[rank].at(group).id; };
    for (int rank = 0; rank < 4; ++rank) {
        ASSERT_EQ(groups[rank].size(), 3u);
        EXPECT_EQ(id(rank, 0), id(0, 0));
        EXPECT_EQ(groups[rank][1].begun, 1);
        EXPECT_EQ(groups[rank][1].calls.back().label, "in pairs");
        EXPECT_EQ(groups[rank][2].begun, 0);
    }
    EXPECT_EQ(id(0, 1), id(1, 1));
    EXPECT_NE(id(0, 1), id(2, 1));
    EXPECT_EQ(id(0, 2), id(2, 2));
    EXPECT_NE(id(0, 2), id(1, 2));
    EXPECT_NE(id(0, 1), id(0, 2));
}

TEST(Activity, TellsWhereARankWaits) {
    std::promise<void> seen;
    parallel::run_as_threads(2, [&](Communicator& world) {
        if (world.rank() == 1) {
            seen.get_future().wait();
            world.barrier("both");
            return;
        }
        // Another thread looks, as the heartbeat does.
        std::thread looker([&] {
            Activity::Look look;
            do {
                look = world.activity().look();
            } while (!look.waits);
            EXPECT_EQ(look.waits->label, "both");
            EXPECT_EQ(look.waits->sequence, 1);
            seen.set_value();
        });
        world.barrier("both");
        looker.join();
        EXPECT_FALSE(world.activity().look().waits);
    });
}

TEST(Activity, WorkAndPhasesAreProgress) {
    Activity activity;
    ThreadPool pool(2);
    activity.count(pool.progress());
    uint64_t before = 0;
    // Again and again: a loop counts whichever thread takes its chunks.
    for (int loop = 0; loop < 1000; ++loop) {
        before = activity.look().ticks;
        pool.run(2, [](int64_t) {});
        ASSERT_GT(activity.look().ticks, before) << "loop " << loop;
    }
    before = activity.look().ticks;
    {
        const PhaseMark outer(activity, Phase::evaluate);
        EXPECT_GT(activity.look().ticks, before);
        const PhaseMark inner(activity, Phase::data);
        EXPECT_EQ(activity.look().phase, Phase::data);
    }
    EXPECT_EQ(activity.look().phase, Phase::start);
}

TEST(Beat, HoldsWhatFitsAndRefusesWhatCannotBe) {
    Activity activity;
    const std::string long_name(100, 'n');
    for (uint64_t group = 0; group < 30; ++group)
        activity.join(group, long_name, 4);
    activity.begin(19, 5, 6, long_name);
    activity.wait(19, 5, long_name);
    for (int peer = 0; peer < 14; ++peer)
        activity.begin_message(19, {.peer = peer, .sends = true, .number = peer + 1});
    activity.begin_message(19, {.peer = 2, .sends = false, .number = 9});
    Beat beat = parallel::beat_of(activity.look());
    EXPECT_TRUE(beat.is_sound(4));
    EXPECT_EQ(beat.pairs, 14);
    EXPECT_EQ(beat.pair[0].peer, 2) << "the one used last comes first";
    EXPECT_EQ(beat.pair[0].sent, 3);
    EXPECT_EQ(beat.pair[0].received, 9);
    EXPECT_EQ(beat.pair[11].peer, 3) << "what does not fit is the oldest";
    EXPECT_EQ(beat.groups, 24);
    EXPECT_EQ(beat.group[0].id, 19u);
    EXPECT_EQ(beat.group[0].begun, 6);
    EXPECT_EQ(beat.call.label.view(), std::string(55, 'n'));
    EXPECT_EQ(beat.past.back().sequence, 5);
    const auto refuses = [&](auto&& spoil) {
        Beat bad = beat;
        spoil(bad);
        EXPECT_FALSE(bad.is_sound(4));
    };
    refuses([](Beat& bad) { bad.magic = 0; });
    refuses([](Beat& bad) { bad.rank = 4; });
    refuses([](Beat& bad) { bad.rank = -1; });
    refuses([](Beat& bad) { bad.groups = 25; });
    refuses([](Beat& bad) { bad.pairs = -1; });
    refuses([](Beat& bad) { bad.unheard = 4; });
    refuses([](Beat& bad) { bad.kind = static_cast<Beat::Kind>(4); });
    refuses([](Beat& bad) { bad.phase = static_cast<Phase>(parallel::phase_count); });
    refuses([](Beat& bad) { bad.call.label.bytes.back() = 'x'; });
    refuses([](Beat& bad) { bad.past[0].label.bytes.back() = 'x'; });
}

constexpr uint64_t most = Beat::most_groups;

/// A rank that has joined `most` + 6 groups of two ranks, the world (0) first, and has used all but
/// the last six, the world as the first.
void join_groups(Activity& activity) {
    for (uint64_t group = 0; group < most + 6; ++group)
        activity.join(group, "group", 2);
    for (uint64_t group = 0; group < most; ++group)
        activity.begin(group, 1, 1, "first");
}

TEST(Beat, CarriesTheGroupThatItWaitsInThenThoseUsedLast) {
    Activity activity;
    join_groups(activity);
    const auto ids = [](const Activity::Look& look) {
        const Beat beat = parallel::beat_of(look);
        std::vector<uint64_t> found;
        for (int32_t i = 0; i < beat.groups; ++i)
            found.push_back(beat.group[static_cast<size_t>(i)].id);
        return found;
    };
    std::vector<uint64_t> expected;
    for (uint64_t group = most; group-- > 0;)
        expected.push_back(group);
    EXPECT_EQ(ids(activity.look()), expected);
    activity.begin_message(1, {.peer = 1, .sends = true, .number = 1});
    expected.erase(expected.end() - 2);
    expected.insert(expected.begin(), 1);
    EXPECT_EQ(ids(activity.look()), expected) << "messages are uses too";
    activity.begin(most + 1, 1, 1, "first");
    expected.insert(expected.begin(), most + 1);
    expected.pop_back();
    EXPECT_EQ(ids(activity.look()), expected);
    EXPECT_EQ(std::ranges::count(expected, 0u), 0) << "the world was used longest ago";
    activity.wait(0, 1, "first");
    expected.insert(expected.begin(), 0);
    expected.pop_back();
    EXPECT_EQ(ids(activity.look()), expected);

    // Mutant: the newest groups first, whatever has been used.
    Activity::Look look = activity.look();
    for (size_t i = 0; i < look.groups.size(); ++i)
        look.groups[i].used = i + 1;
    look.waits.reset();
    EXPECT_EQ(std::ranges::count(ids(look), 0u), 0);
    EXPECT_EQ(std::ranges::count(ids(look), 1u), 0);
}

/// Two ranks in different calls: the older group is named by what both say of it.
TEST(Beat, OfManyGroupsShowsWhoIsInTheWrongCallOfTheOldest) {
    const auto judged = [](bool by_joining) {
        parallel::HangWatch watch(2, {});
        for (int rank = 0; rank < 2; ++rank) {
            Activity activity;
            join_groups(activity);
            // A message that the other end never sends, in the group joined first and in the next.
            const parallel::MessageEnd end{.peer = 1 - rank, .sends = false, .number = 1};
            const auto group = static_cast<uint64_t>(rank);
            activity.begin_message(group, end);
            activity.wait(group, 0, "activations", end);
            Activity::Look look = activity.look();
            look.waited = std::chrono::seconds(6);
            for (size_t i = 0; by_joining && i < look.groups.size(); ++i)
                look.groups[i].used = i + 1;
            Beat beat = parallel::beat_of(look);
            beat.rank = rank;
            beat.number = 1;
            watch.hear(beat, 0.0);
        }
        return watch.judge(0.5);
    };
    const auto verdict = judged(/*by_joining=*/false);
    ASSERT_TRUE(verdict);
    EXPECT_EQ(verdict->kind, parallel::Verdict::Kind::mismatch);
    EXPECT_EQ(verdict->culprits, (std::vector<int>{0, 1}));
    EXPECT_FALSE(judged(/*by_joining=*/true)) << "mutant";
}

TEST(Datagrams, CarryBytesOfOneLength) {
    DatagramSocket here(parallel::loopback), there(parallel::loopback);
    std::array<std::byte, 4> sent{std::byte{1}, std::byte{2}, std::byte{3}, std::byte{4}}, got{};
    there.send({.host = parallel::loopback, .port = here.port()}, std::span(sent).first(3));
    there.send({.host = parallel::loopback, .port = here.port()}, sent);
    here.wait(1.0);
    const std::optional<Address> from = here.receive(got);
    ASSERT_TRUE(from);
    EXPECT_EQ(*from, (Address{.host = parallel::loopback, .port = there.port()}));
    EXPECT_EQ(got, sent);
    EXPECT_FALSE(here.receive(got));
}

TEST(Datagrams, InterfacesAreWantedByNameOrNetwork) {
    constexpr uint32_t address = 0x0a4d0001;  // 10.77.0.1
    for (const char* wanted :
         {"", "eth0", "lo,eth0", "10.77.0.0/24", "10.0.0.0/8,eth1", "0.0.0.0/0"})
        EXPECT_TRUE(parallel::is_wanted(wanted, "eth0", address)) << wanted;
    for (const char* wanted :
         {"eth1", "10.77.1.0/24", "10.77.0.0", "10.77.0.0/33", "10.77.0.0/", ","})
        EXPECT_FALSE(parallel::is_wanted(wanted, "eth0", address)) << wanted;
}

/// A process that waits; it is killed at the latest when the test ends.
class Child {
  public:
    Child() : pid(::fork()) {
        if (pid != 0) return;
        for (;;)
            ::pause();
    }
    ~Child() {
        if (!waited) ::kill(pid, SIGKILL), wait();
    }
    int wait() {
        int status = 0;
        ::waitpid(pid, &status, 0);
        waited = true;
        return status;
    }
    int pid;
    bool waited = false;
};

TEST(Process, IsNamedByNumberAndStart) {
    Child child;
    const uint64_t start = parallel::process_start(child.pid);
    EXPECT_GT(start, 0u);
    EXPECT_FALSE(Process::open(child.pid, start + 1)) << "another one had this number";
    const auto process = Process::open(child.pid, start);
    ASSERT_TRUE(process);
    EXPECT_FALSE(process->has_ended());
    ::kill(child.pid, SIGSTOP);
    for (int i = 0; i < 1000 && process->state() != 'T'; ++i)
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    EXPECT_EQ(process->state(), 'T');
    ::kill(child.pid, SIGKILL);
    child.wait();
    EXPECT_TRUE(process->has_ended());
    EXPECT_EQ(process->state(), '\0');
    EXPECT_EQ(parallel::process_start(child.pid), 0u);
}

TEST(Process, TheUndertakerEndsStoppedRanksAndTheLauncher) {
    Child rank, launcher;
    ::kill(rank.pid, SIGSTOP);
    const auto held = Process::open(rank.pid, parallel::process_start(rank.pid));
    const auto daemon = Process::open(launcher.pid, parallel::process_start(launcher.pid));
    ASSERT_TRUE(held && daemon);
    parallel::start_undertaker({&*held}, &*daemon, 0.1);
    const int killed = rank.wait();
    EXPECT_TRUE(WIFSIGNALED(killed));
    EXPECT_EQ(WTERMSIG(killed), SIGKILL);
    const int ended = launcher.wait();
    EXPECT_TRUE(WIFSIGNALED(ended));
    EXPECT_EQ(WTERMSIG(ended), SIGRTMIN);
    EXPECT_EQ(128 + WTERMSIG(ended), 162) << "the exit code that a shell shows";
    ::wait(nullptr);  // the undertaker itself
}

TEST(Process, ATestProgramHasNoLauncher) {
    EXPECT_FALSE(parallel::launcher_process());
}

}  // namespace
}  // namespace plinth::test
