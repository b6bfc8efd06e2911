// SPDX-License-Identifier: Apache-2.0
#include "launch/loss_reader.h"

#include <gtest/gtest.h>

#include "parallel/comm/self.h"
#include "parallel/comm/threads.h"
#include "tests/support/late_queue.h"

namespace plinth::test {
namespace {

using launch::LossReader;
using launch::Session;

core::ops::Loss loss_of(Session& session, double sum, int64_t weight) {
    const auto value = [&](double x) {
        core::Tensor tensor = core::Tensor::empty({1}, DType::f64, session.host_allocator());
        *tensor.data<double>() = x;
        return tensor;
    };
    const auto count = [&](int64_t n) {
        core::Tensor tensor = core::Tensor::empty({1}, DType::i64, session.host_allocator());
        *tensor.data<int64_t>() = n;
        return tensor;
    };
    return {.sum = value(sum),
            .cross_entropy = value(sum / 2),
            .weight = count(weight),
            .correct = count(weight / 2)};
}

/// What the host asked of the device for four micro-batches, before it read them.
std::vector<QueueCall> calls_of_four(parallel::Communicator& world) {
    std::vector<QueueCall> calls;
    Session session(world, 1);
    session.stream().set_queue(std::make_unique<LateQueue>(calls));
    LossReader reader(session);
    for (int64_t slot = 0; slot < 4; ++slot)
        reader.add(slot, loss_of(session, 1.5 * static_cast<double>(slot), 10 + slot));
    const std::vector<QueueCall> before = calls;
    const auto read = reader.read();
    EXPECT_EQ(read.size(), 4u);
    for (size_t i = 0; i < read.size(); ++i) {
        EXPECT_EQ(read[i].slot, static_cast<int64_t>(i));
        EXPECT_EQ(read[i].sum, 1.5 * static_cast<double>(i));
        EXPECT_EQ(read[i].weight, 10 + static_cast<int64_t>(i));
    }
    return before;
}

TEST(LossReader, ARankAloneWaitsForNoMicroBatch) {
    parallel::SelfCommunicator world;
    EXPECT_TRUE(calls_of_four(world).empty());
}

TEST(LossReader, RanksWaitForTheMicroBatchBefore) {
    const std::vector<QueueCall> expected{{QueueCall::place, 0}, {QueueCall::wait_for_place, 0},
                                          {QueueCall::place, 1}, {QueueCall::wait_for_place, 1},
                                          {QueueCall::place, 2}, {QueueCall::wait_for_place, 2},
                                          {QueueCall::place, 3}};
    parallel::run_as_threads(
        2, [&](parallel::Communicator& world) { EXPECT_EQ(calls_of_four(world), expected); });
}

}  // namespace
}  // namespace plinth::test
