// SPDX-License-Identifier: Apache-2.0
#include "parallel/comm/nccl_links.h"
#include "parallel/comm/self.h"
#include "parallel/comm/threads.h"
#include "tests/distributed/communicator_body.h"
#include "tests/gpu_parallel/device_buffers.h"

namespace plinth::test {
namespace {

using parallel::DeviceConnection;
using parallel::DeviceWay;
using parallel::run_as_threads;

class StagedTest : public ParallelDeviceTest {};

void check_on_device(Communicator& comm, DeviceWay way) {
    Stream stream({DeviceType::cuda, 0}, 1);
    const DeviceConnection connection(comm, stream, way);
    StreamBuffers memory(stream);
    check_communicator_in({comm, memory});
}

TEST_F(StagedTest, RanksOfOneDeviceDoEveryCall) {
    for (const int ranks : {1, 2, 3})
        run_as_threads(ranks, [](Communicator& comm) { check_on_device(comm, DeviceWay::staged); });
}

TEST_F(StagedTest, WhatReceivesIsInTheOrderOfTheStream) {
    // Nobody waits for the stream but the calls themselves.
    run_as_threads(2, [](Communicator& comm) {
        Stream stream({DeviceType::cuda, 0}, 1);
        const DeviceConnection connection(comm, stream, DeviceWay::staged);
        StreamBuffers memory(stream);
        constexpr size_t count = 1 << 20;
        const Buffer<float> values(memory, std::vector<float>(count, 1.0f));
        for (int i = 0; i < 20; ++i)
            comm.all_reduce("doubled", values.span(), Reduce::sum);
        const std::vector<float> result = values.values();
        for (size_t i = 0; i < count; ++i)
            CHECK(result[i] == 1048576.0f, "element {} is {}", i, result[i]);
    });
}

}  // namespace
}  // namespace plinth::test
