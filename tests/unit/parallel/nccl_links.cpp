// SPDX-License-Identifier: Apache-2.0
#include "parallel/comm/nccl_links.h"

#include <gtest/gtest.h>

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
