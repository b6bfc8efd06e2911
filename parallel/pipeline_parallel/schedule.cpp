// SPDX-License-Identifier: Apache-2.0
#include "parallel/pipeline_parallel/schedule.h"

#include "kernels/runtime/error.h"
#include "parallel/pipeline_parallel/compute_order.h"
#include "parallel/pipeline_parallel/place_messages.h"

namespace plinth::parallel {

namespace {

std::string describe(const Message& message, bool is_send) {
    return fmt::format("{} of {} {}, chunk {}, {} stage {}", is_send ? "send" : "receive",
                       message.payload == Payload::activation ? "activation" : "gradient",
                       message.micro_batch, message.chunk, is_send ? "to" : "from", message.peer);
}

}  // namespace

std::string_view name_of(ScheduleKind kind) {
    switch (kind) {
        case ScheduleKind::gpipe:
            return "gpipe";
        case ScheduleKind::one_f_one_b:
            return "1f1b";
        case ScheduleKind::interleaved:
            return "interleaved";
        case ScheduleKind::zero_bubble_h1:
            return "zero_bubble";
    }
    return "";
}

std::string_view name_of(Pass pass) {
    switch (pass) {
        case Pass::forward:
            return "forward";
        case Pass::backward:
            return "backward";
        case Pass::input_grad:
            return "input_grad";
        case Pass::weight_grad:
            return "weight_grad";
    }
    return "";
}

std::string describe(const Action& action) {
    if (const auto* compute = std::get_if<Compute>(&action))
        return fmt::format("{} of micro-batch {}, chunk {}", name_of(compute->pass),
                           compute->micro_batch, compute->chunk);
    const auto& [send, receive] = std::get<Exchange>(action);
    if (send && receive) return describe(*send, true) + " with " + describe(*receive, false);
    if (send) return describe(*send, true);
    return receive ? describe(*receive, false) : "empty exchange";
}

void ScheduleConfig::validate() const {
    REQUIRE(config, stages >= 1 && micro_batches >= 1 && chunks >= 1,
            "parallel.pipeline: a schedule needs at least one stage, micro-batch and model chunk, "
            "got {}, {} and {}",
            stages, micro_batches, chunks);
    REQUIRE(config, chunks == 1 || kind == ScheduleKind::interleaved,
            "parallel.pipeline: the {} schedule has one model chunk a stage, got {}: take the "
            "interleaved schedule, or one chunk",
            name_of(kind), chunks);
}

Schedule make_schedule(const ScheduleConfig& config) {
    config.validate();
    ComputeOrders orders;
    for (int stage = 0; stage < config.stages; ++stage)
        orders.push_back(compute_order(config, stage));
    return {.config = config, .actions = place_messages(config, orders)};
}

}  // namespace plinth::parallel
