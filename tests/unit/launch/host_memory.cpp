// SPDX-License-Identifier: Apache-2.0
#include "launch/host_memory.h"

#include <gtest/gtest.h>

#include "parallel/comm/ranks_of.h"
#include "parallel/comm/threads.h"
#include "tests/support/expect_error.h"

namespace plinth::launch {
namespace {

RunConfig config_of(OptimizerOffload states, bool inputs) {
    RunConfig config;
    config.optimizer.offload = states;
    config.train.offload_activations = inputs;
    return config;
}

/// Every rank is told the same. "" where nothing is refused.
std::string refusal(const RunConfig& config, const std::vector<HostShare>& shares) {
    std::vector<std::string> messages(shares.size());
    parallel::run_as_threads(static_cast<int>(shares.size()), [&](parallel::Communicator& world) {
        parallel::RanksOf ranks(world);
        const auto rank = static_cast<size_t>(world.rank());
        try {
            require_host_memory(config, ranks, shares[rank]);
        } catch (const Error& error) {
            CHECK(error.kind() == ErrorKind::io, "another kind of error");
            messages[rank] = error.what();
        }
    });
    for (const std::string& message : messages)
        EXPECT_EQ(message, messages[0]);
    return messages[0];
}

const RunConfig states = config_of(OptimizerOffload::states, false);

TEST(HostMemory, RanksOfAMachineShareWhatIsFreeThere) {
    EXPECT_EQ(refusal(states, {{"a", 100, 100}}), "");
    EXPECT_EQ(refusal(states, {{"a", 100, 200}, {"a", 100, 210}, {"b", 300, 300}}), "");
    EXPECT_NE(refusal(states, {{"a", 100, 199}, {"a", 100, 210}, {"b", 300, 300}}), "");
    EXPECT_NE(refusal(states, {{"a", 100, 200}, {"a", 100, 200}, {"b", 300, 299}}), "");
    EXPECT_EQ(refusal(states, {{"a", 100, {}}, {"a", 100, {}}}), "") << "nothing is known";
}

TEST(HostMemory, TheRefusalNamesKeyRankBytesAndTheFix) {
    const auto expect_parts = [](const std::string& message,
                                 const std::vector<std::string>& parts) {
        EXPECT_EQ(message.find('\n'), std::string::npos);
        for (const std::string& part : parts)
            EXPECT_NE(message.find(part), std::string::npos) << part << " in: " << message;
    };
    expect_parts(
        refusal(states, {{"node one", 100, 99}}),
        {"optimizer.offload=states: rank 0 on node one needs 100 bytes of host memory, and "
         "99 are free there: free 1 more, or ",
         "parallel.zero=1", "optimizer.offload=none"});
    expect_parts(
        refusal(config_of(OptimizerOffload::states, true),
                {{"a", 1, 9}, {"b", 70, 99}, {"b", 30, 99}, {"b", 10, 99}}),
        {"optimizer.offload=states, train.offload_activations=true: rank 1 on b needs 70 bytes of "
         "host memory, 110 with the 2 others there, and 99 are free there: free 11 more, or "});
    const std::string inputs =
        refusal(config_of(OptimizerOffload::none, true), {{"a", 6, 9}, {"a", 4, 9}});
    expect_parts(inputs,
                 {"train.offload_activations=true: rank 0 on a needs 6 bytes of host memory, "
                  "10 with the 1 other there, and 9 are free there: free 1 more, or ",
                  "a smaller train.micro_batch, or train.offload_activations=false"});
    EXPECT_EQ(inputs.find("optimizer.offload"), std::string::npos);
}

TEST(HostMemory, ARunOffloadsByEitherKey) {
    EXPECT_FALSE(offloads(RunConfig{}));
    EXPECT_TRUE(offloads(states));
    EXPECT_TRUE(offloads(config_of(OptimizerOffload::none, true)));
}

}  // namespace
}  // namespace plinth::launch
