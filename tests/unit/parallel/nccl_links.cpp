// SPDX-License-Identifier: Apache-2.0
#include "parallel/comm/nccl_links.h"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <map>

#include "parallel/comm/nccl_lane.h"
#include "parallel/comm/threads.h"
#include "tests/distributed/communicator_body.h"
#include "tests/support/expect_error.h"
#include "tests/support/fake_nccl.h"

namespace plinth::test {
namespace {

using parallel::CommunicatorOptions;
using parallel::run_as_threads;
using std::chrono::milliseconds;

constexpr size_t large = 50000;
const CommunicatorOptions patient{.name = "test", .time_limit = std::chrono::seconds(60)};
const CommunicatorOptions hasty{.name = "test", .time_limit = milliseconds(500)};

void run(int ranks, const std::function<void(Communicator&)>& body) {
    run_as_threads(ranks, body, patient);
}

class Links : public testing::TestWithParam<int> {};
TEST_P(Links, DoEveryCall) {
    FakeNetwork network;
    run(GetParam(), [&](Communicator& comm) {
        FakeLinkedDevice device(comm, network, {});
        check_communicator_in({.comm = comm, .memory = device, .large = large});
        CHECK((device.nccl().connections() > 0) == (comm.size() > 1), "{} connections",
              device.nccl().connections());
    });
}
INSTANTIATE_TEST_SUITE_P(Ranks, Links, testing::Values(1, 2, 3, 4));

/// Groups larger than one call of the library serves, with limits that divide nothing and that do.
TEST(NcclLinks, ExchangeInRoundsWhatIsTooMuchForOneCall) {
    for (const size_t most : {size_t{2}, size_t{3}, size_t{4}, size_t{8}}) {
        FakeNetwork network;
        network.most_messages = most;
        run(5, [&](Communicator& comm) {
            FakeLinkedDevice device(comm, network, {});
            check_communicator_in({.comm = comm, .memory = device, .large = 1000});
        });
    }
}

TEST(NcclLinks, LeaveHostMemoryToTheHost) {
    FakeNetwork network;
    run(3, [&](Communicator& comm) {
        FakeLinkedDevice device(comm, network, {});
        check_communicator(comm);
    });
    EXPECT_EQ(network.calls, 0);
}

/// Two streams at the same memory in no order are a race, as the thread sanitizer says: it has no
/// use for these mutants, and finds with the other tests whatever they are for.
#if defined(__SANITIZE_THREAD__)
constexpr bool finds_races = true;
#elif defined(__has_feature)
constexpr bool finds_races = __has_feature(thread_sanitizer);
#else
constexpr bool finds_races = false;
#endif

TEST(NcclLinks, WaitForWhatTheComputingStreamDoesBefore) {
    if (finds_races) GTEST_SKIP() << "the mutant is a race of threads";
    FakeNetwork network;
    const auto body = [&](Communicator& comm) {
        FakeLinkedDevice device(
            comm, network,
            {.compute = {.delay = milliseconds(5)}, .link = {.delay = {}, .is_deaf = true}});
        check_communicator_in({.comm = comm, .memory = device, .large = 1000});
    };
    EXPECT_THROW(run(3, body), Error);
}

/// Nothing but the event makes the copy wait: the host does not.
void copy_a_sum(Communicator& comm, FakeNetwork& network, bool is_deaf) {
    FakeLinkedDevice device(
        comm, network,
        {.compute = {.delay = {}, .is_deaf = is_deaf}, .link = {.delay = milliseconds(20)}});
    const Buffer<float> values(device, std::vector<float>{1.5f});
    const Buffer<float> copy(device, 1);
    comm.all_reduce("sum", values.span(), Reduce::sum);
    device.compute().copy(copy.span().data(), values.span().data(), sizeof(float));
    CHECK(copy.values()[0] == 3.0f, "{}", copy.values()[0]);
}

TEST(NcclLinks, AreWaitedForByTheComputingStream) {
    FakeNetwork network;
    run(2, [&](Communicator& comm) { copy_a_sum(comm, network, false); });
    if (finds_races) GTEST_SKIP() << "the mutant is a race of threads";
    EXPECT_THROW(run(2, [&](Communicator& comm) { copy_a_sum(comm, network, true); }), Error);
}

TEST(NcclLinks, MessagesExpectedEarlyHoldUpNoOthers) {
    FakeNetwork network;
    run(2, [&](Communicator& comm) {
        FakeLinkedDevice device(comm, network, {});
        const int other = 1 - comm.rank();
        const Buffer<std::byte> in(device, 1000), out(device, patterned(comm.rank(), other, 1000));
        const Buffer<int64_t> sum(device, std::vector<int64_t>{1});
        Pending expected = comm.start_receive("expected", in.span(), other);
        comm.all_reduce("between", sum.span(), Reduce::sum);
        CHECK(sum.values()[0] == 2, "{}", sum.values()[0]);
        comm.send("expected", out.span(), other);
        expected.wait();
        CHECK(in.values() == patterned(other, comm.rank(), 1000), "message");
    });
}

/// Two groups of both ranks, of which each rank is late to connect another one; returns what was
/// given to the streams of either rank.
std::map<int, std::vector<std::string>> launched_by(
    const std::function<void(Communicator&, FakeLinkedDevice&, std::span<Communicator* const>)>&
        calls) {
    FakeNetwork network;
    network.delay = [](int rank, const std::string& group) {
        return milliseconds(group.starts_with(rank == 0 ? "first" : "second") ? 50 : 0);
    };
    run(2, [&](Communicator& comm) {
        FakeLinkedDevice device(comm, network, {});
        const auto first = comm.split(0, "first"), second = comm.split(0, "second");
        calls(comm, device, std::array{first.get(), second.get()});
    });
    return network.launched;
}

TEST(NcclLinks, CollectivesOfAllGroupsGoInTheOrderOfTheProgram) {
    constexpr int rounds = 3;
    const auto launched = launched_by([](Communicator&, FakeLinkedDevice& device, auto groups) {
        std::vector<Buffer<int64_t>> sums;
        std::vector<parallel::Pending> calls;
        for (int round = 0; round < rounds; ++round)
            for (Communicator* group : groups) {
                sums.emplace_back(device, std::vector<int64_t>{10 + round});
                calls.push_back(group->start_all_reduce("sum", sums.back().span(), Reduce::sum));
            }
        for (parallel::Pending& call : calls)
            call.wait();
        for (size_t i = 0; i < sums.size(); ++i)
            CHECK(sums[i].values()[0] == 20 + 2 * static_cast<int64_t>(i / 2), "sum {}", i);
    });
    std::vector<std::string> program;
    for (int round = 0; round < rounds; ++round)
        program.insert(program.end(), {"first", "second"});
    EXPECT_EQ(launched.at(0), program);
    EXPECT_EQ(launched.at(1), program);
}

/// They show too that the test above can fail: what keeps no order goes in another one on each
/// rank.
TEST(NcclLinks, MessagesGoWhenTheirPairHasConnected) {
    const auto launched =
        launched_by([](Communicator& comm, FakeLinkedDevice& device, auto groups) {
            std::vector<Buffer<std::byte>> buffers;
            std::vector<parallel::Pending> calls;
            for (Communicator* group : groups) {
                buffers.emplace_back(device, patterned(0, 1, 100));
                const std::span<std::byte> bytes = buffers.back().span();
                calls.push_back(comm.rank() == 0 ? group->start_send("message", bytes, 1)
                                                 : group->start_receive("message", bytes, 0));
            }
            for (parallel::Pending& call : calls)
                call.wait();
        });
    EXPECT_EQ(launched.at(0), (std::vector<std::string>{"second 0 to 1", "first 0 to 1"}));
    EXPECT_EQ(launched.at(1), (std::vector<std::string>{"first 0 to 1", "second 0 to 1"}));
}

/// A transfer through the host that has come when the test says so.
class HeldTransfer final : public parallel::Transfer {
  public:
    struct State {
        bool has_come = false;
        bool is_gone = false;
    };
    explicit HeldTransfer(std::shared_ptr<State> state) : state_(std::move(state)) {}
    ~HeldTransfer() override { state_->is_gone = true; }
    bool test() override { return state_->has_come; }

  private:
    std::shared_ptr<State> state_;
};

TEST(NcclLinks, AnIdOnItsWayOutlivesItsLane) {
    FakeNetwork network;
    run(1, [&](Communicator& comm) {
        FakeLinkedDevice device(comm, network, {});
        const auto state = std::make_shared<HeldTransfer::State>();
        parallel::Bytes id;
        {
            const parallel::NcclLane lane(device.links(), {.rank = 1, .size = 2, .name = "pair"},
                                          {.label = "id"}, {0, 0},
                                          [&](const parallel::Call&, auto, auto receives) {
                                              id = receives.at(0).bytes;
                                              return std::make_unique<HeldTransfer>(state);
                                          });
        }
        CHECK(!state->is_gone, "the transfer was dropped while it was on its way");
        std::ranges::fill(id, std::byte{1});  // it comes; a sanitizer sees where to
        state->has_come = true;
        device.links().progress();
        CHECK(state->is_gone, "the transfer is kept when it has come");
    });
}

TEST(NcclLinks, ACallThatARankNeverMakesRunsOutOfTime) {
    FakeNetwork network;
    const auto body = [&](Communicator& comm) {
        FakeLinkedDevice device(comm, network, {});
        const Buffer<int64_t> sum(device, std::vector<int64_t>{1});
        comm.all_reduce("loss", sum.span(), Reduce::sum);
        if (comm.rank() == 2) return;
        // The host goes on; the time is over when it waits for the stream.
        comm.all_reduce("gradient norm", sum.span(), Reduce::sum);
        device.links().settle();
    };
    expect_error(
        ErrorKind::ranks, [&] { run_as_threads(3, body, hasty); }, "'gradient norm'",
        "group 'test'", "rank 2 has last begun");
}

/// Rank 0 waits for a place of its stream, after which it has begun a call that the other rank
/// begins when that wait is over.
void wait_for_a_place(bool waits_for_all) {
    FakeNetwork network;
    std::atomic<bool> has_waited = false;
    const auto body = [&](Communicator& comm) {
        FakeLinkedDevice device(comm, network, {});
        const Buffer<int64_t> sum(device, std::vector<int64_t>{1});
        comm.all_reduce("before", sum.span(), Reduce::sum);
        const auto place = device.compute().record();
        if (comm.rank() == 0) {
            const struct Waited {
                std::atomic<bool>& flag;
                ~Waited() { flag = true; }
            } in_any_case{has_waited};
            comm.all_reduce("after", sum.span(), Reduce::sum);
            device.links().settle(waits_for_all ? nullptr : place.get());
            CHECK(place->is_done(), "the place was not reached");
        } else {
            while (!has_waited)
                std::this_thread::sleep_for(milliseconds(1));
            comm.all_reduce("after", sum.span(), Reduce::sum);
        }
        CHECK(sum.values()[0] == 4, "{}", sum.values()[0]);
    };
    run_as_threads(2, body, hasty);
}

TEST(NcclLinks, AWaitForAPlaceLeavesOutWhatComesLater) {
    wait_for_a_place(false);
    expect_error(
        ErrorKind::ranks, [] { wait_for_a_place(true); }, "'after'");
}

TEST(NcclLinks, OfSeveralGroupsTheCallThatTheStreamWaitsForFirstIsNamed) {
    FakeNetwork network;
    const auto body = [&](Communicator& comm) {
        FakeLinkedDevice device(comm, network, {});
        const auto first = comm.split(0, "first"), second = comm.split(0, "second");
        const Buffer<int64_t> sum(device, std::vector<int64_t>{1});
        for (Communicator* group : {first.get(), second.get()})
            group->all_reduce("both", sum.span(), Reduce::sum);
        device.links().settle();
        if (comm.rank() == 1) return;
        second->all_reduce("lost", sum.span(), Reduce::sum);
        first->all_reduce("later", sum.span(), Reduce::sum);
        device.links().settle();
    };
    expect_error(
        ErrorKind::ranks, [&] { run_as_threads(2, body, hasty); }, "'lost'", "group 'second'");
}

TEST(NcclLinks, ARankThatNeverConnectsIsNamed) {
    FakeNetwork network;
    const auto body = [&](Communicator& comm) {
        FakeLinkedDevice device(comm, network, {});
        if (comm.rank() == 2) return;
        const Buffer<int64_t> sum(device, std::vector<int64_t>{1});
        comm.all_reduce("loss", sum.span(), Reduce::sum);
    };
    expect_error(
        ErrorKind::ranks, [&] { run_as_threads(3, body, hasty); }, "'loss'", "rank 2");
}

TEST(NcclLinks, RefuseBuffersOfBothKindsInOneCall) {
    FakeNetwork network;
    const auto body = [&](Communicator& comm) {
        FakeLinkedDevice device(comm, network, {});
        const Buffer<std::byte> in(device, 10);
        const std::vector<std::byte> out(10);
        std::vector<ConstBytes> sends(2, out);
        std::vector<Bytes> receives(2, in.span());
        receives[static_cast<size_t>(comm.rank())] = {};
        comm.all_to_all("mixed", sends, receives);
    };
    expect_error(
        ErrorKind::internal, [&] { run(2, body); }, "mixed", "device memory");
}

}  // namespace
}  // namespace plinth::test
