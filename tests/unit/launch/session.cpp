// SPDX-License-Identifier: Apache-2.0
#include "launch/session.h"

#include <gtest/gtest.h>

#include <cstdlib>

#include "tests/support/expect_error.h"

namespace plinth::launch {
namespace {

using parallel::DeviceWay;

/// Of ranks on GPUs unless told otherwise; `asked` counts the questions about NCCL.
ExchangeChoice chosen(DeviceExchange wanted, const std::string& obstacle, int& asked,
                      DeviceType device = DeviceType::cuda) {
    return exchange_choice(
        wanted, device,
        [&] {
            ++asked;
            return obstacle;
        },
        [] { return "2.28.9"; });
}

TEST(ExchangeChoice, AutoIsTheWayThatHasRunAndSaysSo) {
    int asked = 0;
    const ExchangeChoice choice = chosen(DeviceExchange::automatic, "", asked);
    EXPECT_EQ(choice.way, DeviceWay::staged);
    EXPECT_NE(choice.line.find("by way of host memory"), std::string::npos) << choice.line;
    EXPECT_NE(choice.line.find("run.device_exchange=nccl"), std::string::npos) << choice.line;
    EXPECT_EQ(asked, 0) << "no library is looked for";
}

TEST(ExchangeChoice, NcclIsTakenWhereItIsNamedAndNamesItself) {
    int asked = 0;
    const ExchangeChoice choice = chosen(DeviceExchange::nccl, "", asked);
    EXPECT_EQ(choice.way, DeviceWay::nccl);
    EXPECT_NE(choice.line.find("NCCL 2.28.9"), std::string::npos) << choice.line;
    EXPECT_EQ(asked, 1);
    test::expect_error(
        ErrorKind::config,
        [&] { chosen(DeviceExchange::nccl, "ranks 0 and 1 share a device", asked); },
        "run.device_exchange=nccl", "ranks 0 and 1 share a device");
    // A rank without a GPU among ranks with one must join the question, which is collective.
    test::expect_error(
        ErrorKind::config,
        [&] { chosen(DeviceExchange::nccl, "rank 0: no", asked, DeviceType::cpu); }, "rank 0: no");
}

TEST(ExchangeChoice, HostAndCpuRanksSayNothing) {
    int asked = 0;
    for (const auto& [wanted, device] : {std::pair{DeviceExchange::host, DeviceType::cuda},
                                         std::pair{DeviceExchange::host, DeviceType::cpu},
                                         std::pair{DeviceExchange::automatic, DeviceType::cpu}}) {
        const ExchangeChoice choice = chosen(wanted, "", asked, device);
        EXPECT_EQ(choice.way, DeviceWay::staged);
        EXPECT_EQ(choice.line, "");
    }
    EXPECT_EQ(asked, 0);
}

TEST(DeviceQueues, AreManyForNcclUnlessSomebodySaysHowMany) {
    constexpr const char* name = "CUDA_DEVICE_MAX_CONNECTIONS";
    const auto text = [] { return std::string(std::getenv(name) ? std::getenv(name) : "none"); };
    ::unsetenv(name);
    for (const DeviceExchange exchange : {DeviceExchange::automatic, DeviceExchange::host}) {
        prepare_device_queues(exchange);
        EXPECT_EQ(text(), "none");
    }
    prepare_device_queues(DeviceExchange::nccl);
    EXPECT_EQ(text(), "32");
    ::setenv(name, "1", /*overwrite=*/1);
    prepare_device_queues(DeviceExchange::nccl);
    EXPECT_EQ(text(), "1");
    ::unsetenv(name);
}

}  // namespace
}  // namespace plinth::launch
