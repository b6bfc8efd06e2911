// SPDX-License-Identifier: Apache-2.0
#include "parallel/comm/device_staging.h"

#include <gtest/gtest.h>

#include <atomic>

#include "parallel/comm/self.h"
#include "parallel/comm/threads.h"
#include "tests/distributed/communicator_body.h"
#include "tests/support/fake_device.h"

namespace plinth::test {
namespace {

using parallel::DeviceStaging;
using parallel::run_as_threads;
using parallel::SelfCommunicator;

void check_with_device(Communicator& comm) {
    WithFakeDevice device(comm);
    DeviceBuffers memory(*device);
    check_communicator_in({comm, memory});
}

class DeviceMemory : public testing::TestWithParam<int> {};
TEST_P(DeviceMemory, GoesThroughEveryCall) {
    run_as_threads(GetParam(), check_with_device, {.name = "test"});
}
INSTANTIATE_TEST_SUITE_P(Ranks, DeviceMemory, testing::Values(1, 2, 3, 4, 5));

TEST(DeviceMemory, IsNotStagedInAGroupOfOne) {
    SelfCommunicator self;
    WithFakeDevice device(self);
    DeviceBuffers memory(*device);
    check_communicator_in({self, memory});
    EXPECT_EQ(device->copies(FakeDevice::Copy::to_host), 0);
    EXPECT_EQ(device->copies(FakeDevice::Copy::to_device), 0);
    EXPECT_GT(device->copies(FakeDevice::Copy::within_device), 0);
}

TEST(DeviceMemory, MayMeetHostMemoryInOneCall) {
    run_as_threads(3, [](Communicator& comm) {
        WithFakeDevice device(comm);
        DeviceBuffers there(*device);
        HostBuffers here;
        // Each rank's own piece too goes from one kind to the other.
        for (const bool from_device : {true, false}) {
            BufferMemory& sending = from_device ? static_cast<BufferMemory&>(there) : here;
            BufferMemory& receiving = from_device ? static_cast<BufferMemory&>(here) : there;
            std::vector<Buffer<std::byte>> out, in;
            std::vector<ConstBytes> sends;
            std::vector<Bytes> receives;
            for (int peer = 0; peer < comm.size(); ++peer) {
                sends.emplace_back(
                    out.emplace_back(sending, patterned(comm.rank(), peer, 300)).span());
                receives.push_back(in.emplace_back(receiving, 300).span());
            }
            comm.all_to_all("mixed", sends, receives);
            for (int peer = 0; peer < comm.size(); ++peer)
                CHECK(in[static_cast<size_t>(peer)].values() == patterned(peer, comm.rank(), 300),
                      "from rank {}", peer);
        }
    });
}

/// Copies of rank 1 of 3 in a test of every call.
constexpr int watched = 1;
int copies_of(FakeDevice::Copy copy, const FakeDevice::Forgets& forgets) {
    std::atomic<int> copies{0};
    run_as_threads(3, [&](Communicator& comm) {
        WithFakeDevice device(comm, comm.rank() == watched ? forgets : FakeDevice::Forgets{});
        DeviceBuffers memory(*device);
        check_communicator_in({.comm = comm, .memory = memory, .large = 3000});
        if (comm.rank() == watched) copies = device->copies(copy);
    });
    return copies;
}

class ForgottenCopy : public testing::TestWithParam<FakeDevice::Copy> {};
TEST_P(ForgottenCopy, IsSeen) {
    const FakeDevice::Copy forgotten = GetParam();
    const int copies = copies_of(forgotten, {});
    ASSERT_GT(copies, 0);
    for (int n = 0; n < copies; ++n)
        EXPECT_THROW(
            copies_of(forgotten, [&](FakeDevice::Copy copy,
                                     int number) { return copy == forgotten && number == n; }),
            Error)
            << "copy " << n << " of " << copies;
}
INSTANTIATE_TEST_SUITE_P(Kinds, ForgottenCopy,
                         testing::Values(FakeDevice::Copy::to_host, FakeDevice::Copy::to_device,
                                         FakeDevice::Copy::within_device));

TEST(DeviceStaging, KeepsABlockUntilItsCopyIsDone) {
    auto device = std::make_unique<FakeDevice>();
    FakeDevice& fake = *device;
    DeviceStaging staging(std::move(device));
    std::byte* const place = fake.allocate(100);
    DeviceStaging::Block first(staging, 100);
    const std::byte* const where = first.bytes().data();
    staging.send_off(place, std::move(first));
    EXPECT_NE(DeviceStaging::Block(staging, 100).bytes().data(), where);
    EXPECT_EQ(staging.kept_bytes(), 100u);
    staging.synchronize();
    EXPECT_EQ(staging.kept_bytes(), 0u);
    EXPECT_EQ(DeviceStaging::Block(staging, 100).bytes().data(), where);
}

TEST(DeviceStaging, WaitsByItselfBeforeItKeepsTooMuch) {
    auto device = std::make_unique<FakeDevice>();
    FakeDevice& fake = *device;
    DeviceStaging staging(std::move(device));
    constexpr size_t bytes = size_t{96} << 20;
    std::byte* const place = fake.allocate(bytes);
    for (int i = 0; i < 3; ++i)
        staging.send_off(place, DeviceStaging::Block(staging, bytes));
    EXPECT_EQ(staging.kept_bytes(), 0u);
}

}  // namespace
}  // namespace plinth::test
