// SPDX-License-Identifier: Apache-2.0
#include "parallel/pipeline_parallel/place_messages.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <utility>
#include <vector>

#include "parallel/pipeline_parallel/check.h"
#include "tests/support/expect_error.h"

namespace plinth::test {
namespace {

using parallel::check_schedule;
using parallel::Compute;
using parallel::ComputeOrders;
using parallel::Pass;
using parallel::place_messages;
using parallel::ScheduleConfig;
using parallel::ScheduleKind;

/// Any order that respects what passes need, far from what a generator would write: at each step a
/// random one of the passes whose inputs are there.
ComputeOrders random_orders(const ScheduleConfig& config, std::mt19937& random) {
    struct Done {
        int forward = 0, input_grad = 0, weight_grad = 0;
    };
    std::vector<Done> done(static_cast<size_t>(config.virtual_stages()));
    ComputeOrders orders(static_cast<size_t>(config.stages));
    for (;;) {
        std::vector<std::pair<size_t, Pass>> possible;
        for (size_t g = 0; g < done.size(); ++g) {
            const auto& mine = done[g];
            const int inputs = g == 0 ? config.micro_batches : done[g - 1].forward;
            const int gradients = g + 1 == done.size()
                                      ? mine.forward
                                      : std::min(mine.forward, done[g + 1].input_grad);
            if (mine.forward < inputs) possible.emplace_back(g, Pass::forward);
            if (mine.input_grad < gradients) possible.emplace_back(g, Pass::input_grad);
            if (mine.weight_grad < mine.input_grad) possible.emplace_back(g, Pass::weight_grad);
        }
        if (possible.empty()) return orders;
        const auto [g, pass] = possible[random() % possible.size()];
        int& next = pass == Pass::forward      ? done[g].forward
                    : pass == Pass::input_grad ? done[g].input_grad
                                               : done[g].weight_grad;
        const int virtual_stage = static_cast<int>(g);
        orders[g % orders.size()].push_back({pass, next++, virtual_stage / config.stages});
    }
}

TEST(PlaceMessages, AnyOrderOfComputationsIsFreeOfDeadlock) {
    std::mt19937 random(7);
    for (int round = 0; round < 200; ++round) {
        const auto up_to = [&](unsigned most) { return static_cast<int>(1 + random() % most); };
        const ScheduleConfig config{ScheduleKind::interleaved, up_to(6), up_to(9), up_to(3)};
        const auto actions = place_messages(config, random_orders(config, random));
        EXPECT_NO_THROW(check_schedule({config, actions}))
            << config.stages << " stages, " << config.micro_batches << " micro-batches, "
            << config.chunks << " chunks, round " << round;
    }
}

TEST(PlaceMessages, RefusesAnOrderThatWaitsForItself) {
    const ScheduleConfig config{ScheduleKind::one_f_one_b, 2, 1, 1};
    const Compute forward{Pass::forward, 0, 0}, backward{Pass::backward, 0, 0};
    expect_error(
        ErrorKind::internal,
        [&] {
            place_messages(config, {{forward, backward}, {backward, forward}});
        },
        "1f1b order waits for itself", "stage 0 at backward of micro-batch 0");
}

}  // namespace
}  // namespace plinth::test
