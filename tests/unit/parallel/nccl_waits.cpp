// SPDX-License-Identifier: Apache-2.0
// Hosts that wait for their own device meanwhile give it what other ranks wait for.
#include <gtest/gtest.h>

#include <atomic>

#include "parallel/comm/threads.h"
#include "tests/support/buffers.h"
#include "tests/support/fake_nccl.h"

namespace plinth::test {
namespace {

using parallel::Communicator;
using std::chrono::milliseconds;

void run(int ranks, const std::function<void(Communicator&)>& body) {
    parallel::run_as_threads(ranks, body, {.name = "test", .time_limit = std::chrono::seconds(60)});
}

/// Two ranks send each other a number over connections that the sender finishes late, go on, and
/// then wait within a kernel's call for their queue, which waits for the other's number (a growing
/// scratch, products that are timed). What each has got; 0 where it does not come.
std::vector<int64_t> received_by_a_wait_in_a_kernel(bool has_hook) {
    FakeNetwork network;
    network.delay = [](int rank, const std::string& group) {
        return milliseconds(group.ends_with(rank == 0 ? "0 to 1" : "1 to 0") ? 150 : 0);
    };
    std::vector<int64_t> received(2);
    std::atomic<int> have_looked = 0;
    run(2, [&](Communicator& comm) {
        FakeLinkedDevice device(comm, network, {});
        if (has_hook)
            device.compute().set_before_waiting(
                [&device](DeviceEvent* place) { device.links().settle(place); });
        const Buffer<int64_t> mine(device, std::vector<int64_t>{comm.rank() + 5}), other(device, 1);
        const int peer = 1 - comm.rank();
        auto sent =
            comm.start_send(fmt::format("from {}", comm.rank()), std::as_bytes(mine.span()), peer);
        comm.receive(fmt::format("from {}", peer), std::as_writable_bytes(other.span()), peer);
        device.compute().before_waiting();
        const auto place = device.compute().record();
        for (int i = 0; i < 500 && !place->is_done(); ++i)
            std::this_thread::sleep_for(milliseconds(1));
        const bool is_there = place->is_done();
        // A host goes on when its place is reached, while what it has sent may still be with it.
        // One without the hook waits, so that no call of its lets exchanges go on.
        for (++have_looked; have_looked < 2; std::this_thread::sleep_for(milliseconds(1)))
            if (has_hook) device.links().progress();
        device.compute().set_before_waiting({});
        sent.wait();
        const int64_t value = other.values()[0];
        if (is_there) received[static_cast<size_t>(comm.rank())] = value;
    });
    return received;
}

TEST(NcclWaits, AWaitWithinAKernelsCallLetsExchangesGoOn) {
    EXPECT_EQ(received_by_a_wait_in_a_kernel(true), (std::vector<int64_t>{6, 5}));
    EXPECT_EQ(received_by_a_wait_in_a_kernel(false), (std::vector<int64_t>{0, 0}))
        << "a queue without the hook: two sound ranks that wait for ever";
}

/// Rank 0 begins a message over a connection that it finishes late, and waits for a place of its
/// queue that depends on no other rank, but lasts until rank 1 has got the message, or for `limit`.
/// True if it has got it by then.
bool arrives_during_a_wait(bool settles, milliseconds limit) {
    FakeNetwork network;
    network.delay = [](int rank, const std::string&) { return milliseconds(rank == 0 ? 50 : 0); };
    std::atomic<bool> has_come = false, has_come_in_time = false;
    run(2, [&](Communicator& comm) {
        FakeLinkedDevice device(comm, network, {});
        const Buffer<int64_t> number(device, std::vector<int64_t>{5 - 5 * comm.rank()});
        if (comm.rank() == 1) {
            comm.receive("number", std::as_writable_bytes(number.span()), 0);
            CHECK(number.values()[0] == 5, "{}", number.values()[0]);
            has_come = true;
            return;
        }
        auto sent = comm.start_send("number", std::as_bytes(number.span()), 1);
        device.compute().give([&, limit] {
            const auto began = std::chrono::steady_clock::now();
            while (!has_come && std::chrono::steady_clock::now() - began < limit)
                std::this_thread::sleep_for(milliseconds(1));
            has_come_in_time = has_come.load();
        });
        const auto place = device.compute().record();
        if (settles) device.links().settle(place.get());
        device.compute().synchronize(*place);
        sent.wait();
    });
    return has_come_in_time;
}

TEST(NcclWaits, AWaitForTheOwnWorkHoldsUpNoMessages) {
    EXPECT_TRUE(arrives_during_a_wait(true, std::chrono::seconds(30)));
    EXPECT_FALSE(arrives_during_a_wait(false, milliseconds(300)))
        << "the mutant: a host that waits at once, while the other rank does without";
}

TEST(NcclWaits, AStreamAsksBeforeEachOfItsWaits) {
    FakeMemory memory;
    auto queue = std::make_unique<FakeQueue>(memory, FakeQueue::Config{});
    FakeQueue& device = *queue;
    Stream stream(1);
    int asked = 0;
    const DeviceEvent* asked_for = nullptr;
    const auto note = [&](DeviceEvent* place) {
        ++asked;
        asked_for = place;
    };
    stream.set_before_waiting(note);
    stream.synchronize();
    EXPECT_EQ(asked, 0) << "nothing waits";
    stream.set_queue(std::move(queue));
    stream.set_before_waiting(note);
    stream.synchronize();
    EXPECT_EQ(asked_for, nullptr) << "all work";
    const auto place = stream.record();
    stream.synchronize(place.get());
    EXPECT_EQ(asked_for, place.get());
    EXPECT_EQ(asked, 2);
    device.before_waiting();  // what its kernels do
    EXPECT_EQ(asked, 3);
    EXPECT_EQ(asked_for, nullptr);
}

}  // namespace
}  // namespace plinth::test
