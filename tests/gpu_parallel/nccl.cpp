// SPDX-License-Identifier: Apache-2.0
// NCCL with one rank, which is all that one device allows: it sends to itself.
#include "kernels/add.h"
#include "parallel/comm/nccl_lane.h"
#include "parallel/comm/nccl_links.h"
#include "parallel/comm/self.h"
#include "parallel/comm/threads.h"
#include "tests/distributed/communicator_body.h"
#include "tests/gpu_parallel/device_buffers.h"
#include "tests/support/emulated_device.h"

namespace plinth::test {
namespace {

using parallel::Call;
using parallel::DeviceConnection;
using parallel::DeviceWay;
using parallel::Incoming;
using parallel::LinkQueue;
using parallel::NcclComm;
using parallel::NcclLane;
using parallel::NcclLinks;
using parallel::Outgoing;
using parallel::Transfer;

struct Done final : Transfer {
    bool test() override { return true; }
};

class NcclTest : public ParallelDeviceTest {
  protected:
    void SetUp() override {
        ParallelDeviceTest::SetUp();
        if (IsSkipped()) return;
        if (is_emulated_device()) GTEST_SKIP() << "the emulated device has no NCCL";
        if (!parallel::no_nccl_reason().empty())
            GTEST_SKIP() << "no NCCL here: " << parallel::no_nccl_reason();
        stream_ = std::make_unique<Stream>(Device{DeviceType::cuda, 0}, 1);
        links_ =
            std::make_unique<NcclLinks>(parallel::nccl_library(), parallel::link_device(*stream_));
    }
    std::unique_ptr<NcclLane> lane() {
        return std::make_unique<NcclLane>(
            *links_, NcclLane::Place{.rank = 0, .size = 1, .name = "one"}, Call{},
            std::vector<int>{0}, [](const Call&, std::vector<Outgoing>, std::vector<Incoming>) {
                return std::make_unique<Done>();
            });
    }
    /// The stream waits for it, the host only until the device has been given it.
    static void wait(Transfer& transfer) {
        while (!transfer.order()) {
        }
    }

    std::unique_ptr<Stream> stream_;
    std::unique_ptr<NcclLinks> links_;
};

/// Needs no device: the module finds its library and what it takes from the program.
TEST(NcclModule, Loads) {
    ASSERT_EQ(parallel::no_nccl_reason(), "");
    EXPECT_EQ(parallel::nccl_library().version().substr(0, 2), "2.");
    EXPECT_NE(parallel::nccl_library().new_id(), parallel::nccl_library().new_id());
}

TEST_F(NcclTest, SendsToItself) {
    const auto lane = this->lane();
    StreamBuffers memory(*stream_);
    for (const size_t bytes : {size_t{1}, size_t{1000}, size_t{64} << 20}) {
        const std::vector<std::byte> sent = patterned(0, 0, bytes);
        const Buffer<std::byte> from(memory, sent), to(memory, bytes);
        const auto transfer = lane->start({[&](NcclComm& comm, LinkQueue& queue) {
            const Outgoing out{0, from.span()};
            const Incoming in{0, to.span()};
            comm.exchange({&out, 1}, {&in, 1}, queue.queue().handle());
        }});
        wait(*transfer);
        EXPECT_EQ(to.values(), sent) << bytes;
        EXPECT_TRUE(transfer->test());
    }
}

TEST_F(NcclTest, ReducesAndBroadcasts) {
    const auto lane = this->lane();
    StreamBuffers memory(*stream_);
    const std::vector<int64_t> integers{1, -7, int64_t{1} << 60};
    const std::vector<float> floats{1.5f, -3e30f, 0.1f};
    const Buffer<int64_t> i(memory, integers);
    const Buffer<float> f(memory, floats);
    const auto transfer = lane->start(
        {[&](NcclComm& comm, LinkQueue& queue) {
             comm.all_reduce(i.span().data(), 3, DType::i64, Reduce::sum, queue.queue().handle());
         },
         [&](NcclComm& comm, LinkQueue& queue) {
             comm.all_reduce(f.span().data(), 3, DType::f32, Reduce::max, queue.queue().handle());
         },
         [&](NcclComm& comm, LinkQueue& queue) {
             comm.broadcast(std::as_writable_bytes(f.span()), 0, queue.queue().handle());
         },
         [&](NcclComm&, LinkQueue& queue) { queue.add(f.span().data(), f.span().data(), 3); }});
    wait(*transfer);
    EXPECT_EQ(i.values(), integers);
    EXPECT_EQ(f.values(), (std::vector<float>{3.0f, -6e30f, 0.2f}));
}

/// A chain in which each link reads what the one before wrote, on the two streams in turn, without
/// the host waiting for anything.
TEST_F(NcclTest, FollowsTheComputingStreamAndIsFollowed) {
    const auto lane = this->lane();
    StreamBuffers memory(*stream_);
    constexpr int64_t count = 1 << 22;
    constexpr int rounds = 200;
    const Buffer<float> values(memory, std::vector<float>(count, 0.0f));
    const Buffer<float> one(memory, std::vector<float>(count, 1.0f));
    const Buffer<float> moved(memory, std::vector<float>(count, 0.0f));
    const auto view = [](const Buffer<float>& buffer) {
        return View(buffer.span().data(), DType::f32, {count}, {DeviceType::cuda, 0});
    };
    std::vector<std::unique_ptr<Transfer>> transfers;
    for (int round = 0; round < rounds; ++round) {
        kernels::add(view(values), view(moved), view(one), *stream_);
        transfers.push_back(lane->start({[&](NcclComm& comm, LinkQueue& queue) {
            const Outgoing out{0, std::as_bytes(values.span())};
            const Incoming in{0, std::as_writable_bytes(moved.span())};
            comm.exchange({&out, 1}, {&in, 1}, queue.queue().handle());
        }}));
        wait(*transfers.back());
    }
    const std::vector<float> result = moved.values();
    for (size_t i = 0; i < result.size(); ++i)
        ASSERT_EQ(result[i], static_cast<float>(rounds)) << i;
}

TEST_F(NcclTest, AbortsWhatNeverEnds) {
    auto lane = this->lane();
    lane->abort();
    EXPECT_THROW(lane->start({})->test(), Error);
}

TEST_F(NcclTest, GroupsOfOneNeedNoConnection) {
    parallel::SelfCommunicator self;
    const DeviceConnection connection(self, *stream_, DeviceWay::nccl);
    StreamBuffers memory(*stream_);
    check_communicator_in({self, memory});
}

TEST_F(NcclTest, TwoRanksOfOneDeviceAreToldApart) {
    parallel::run_as_threads(2, [](Communicator& comm) {
        const std::string obstacle = parallel::nccl_obstacle(comm, {DeviceType::cuda, 0});
        CHECK(obstacle == "ranks 0 and 1 share a device", "{}", obstacle);
    });
    parallel::SelfCommunicator self;
    EXPECT_EQ(parallel::nccl_obstacle(self, {DeviceType::cuda, 0}), "");
}

}  // namespace
}  // namespace plinth::test
