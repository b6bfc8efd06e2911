// SPDX-License-Identifier: Apache-2.0
#include "parallel/pipeline_parallel/place_messages.h"

#include <algorithm>
#include <cstdint>
#include <tuple>

#include "kernels/runtime/error.h"

namespace plinth::parallel {

namespace {

/// When each computation runs if it waits for its inputs alone.
class Timeline {
  public:
    Timeline(const ScheduleConfig& config, const ComputeOrders& orders)
        : config_(config), starts_(orders.size()), clocks_(orders.size()) {
        const auto cells = static_cast<size_t>(config.virtual_stages() * config.micro_batches);
        forward_end_.resize(cells, never);
        gradient_end_.resize(cells, never);
        for (bool moved = true; moved;) {
            moved = false;
            for (int stage = 0; stage < config.stages; ++stage)
                while (run_next(stage, orders[static_cast<size_t>(stage)]))
                    moved = true;
        }
        for (size_t stage = 0; stage < orders.size(); ++stage)
            CHECK(starts_[stage].size() == orders[stage].size(),
                  "the {} order waits for itself: stage {} at {}", name_of(config.kind), stage,
                  describe(orders[stage][starts_[stage].size()]));
    }

    /// Of the computation at this position of the stage's order.
    int64_t start(size_t stage, size_t position) const { return starts_[stage][position]; }

    int64_t forward_end(int virtual_stage, int micro_batch) const {
        return forward_end_[cell(virtual_stage, micro_batch)];
    }
    /// When the gradient of the virtual stage's input is there.
    int64_t gradient_end(int virtual_stage, int micro_batch) const {
        return gradient_end_[cell(virtual_stage, micro_batch)];
    }

  private:
    static constexpr int64_t never = -1;

    size_t cell(int virtual_stage, int micro_batch) const {
        return static_cast<size_t>(virtual_stage * config_.micro_batches + micro_batch);
    }

    /// When the inputs are there; `never` if that is not known yet.
    int64_t inputs_ready(const Compute& compute, int virtual_stage) const {
        const bool is_last = virtual_stage + 1 == config_.virtual_stages();
        switch (compute.pass) {
            case Pass::forward:
                return virtual_stage == 0 ? 0 : forward_end(virtual_stage - 1, compute.micro_batch);
            case Pass::backward:
            case Pass::input_grad:
                return is_last ? forward_end(virtual_stage, compute.micro_batch)
                               : gradient_end(virtual_stage + 1, compute.micro_batch);
            case Pass::weight_grad:
                return gradient_end(virtual_stage, compute.micro_batch);
        }
        return never;
    }

    bool run_next(int stage, const std::vector<Compute>& order) {
        auto& begun = starts_[static_cast<size_t>(stage)];
        if (begun.size() == order.size()) return false;
        const Compute& compute = order[begun.size()];
        const int virtual_stage = config_.virtual_stage(stage, compute.chunk);
        const int64_t ready = inputs_ready(compute, virtual_stage);
        if (ready == never) return false;
        int64_t& clock = clocks_[static_cast<size_t>(stage)];
        begun.push_back(std::max(clock, ready));
        clock = begun.back() + (compute.pass == Pass::backward ? 2 : 1);
        const size_t at = cell(virtual_stage, compute.micro_batch);
        if (compute.pass == Pass::forward) forward_end_[at] = clock;
        if (compute.pass == Pass::backward || compute.pass == Pass::input_grad)
            gradient_end_[at] = clock;
        return true;
    }

    const ScheduleConfig& config_;
    std::vector<std::vector<int64_t>> starts_;
    std::vector<int64_t> clocks_;                      // by stage
    std::vector<int64_t> forward_end_, gradient_end_;  // by cell
};

/// An action and its place in the common order; ties between messages are broken alike everywhere.
struct Event {
    std::tuple<int64_t, bool, int, Payload, int> key;  // time, computation?, boundary, ...
    Action action;
};

std::vector<std::vector<Event>> lay_out(const ScheduleConfig& config, const ComputeOrders& orders) {
    const Timeline timeline(config, orders);
    std::vector<std::vector<Event>> events(orders.size());
    for (size_t stage = 0; stage < orders.size(); ++stage)
        for (size_t i = 0; i < orders[stage].size(); ++i)
            events[stage].push_back(
                {{timeline.start(stage, i), true, 0, Payload::activation, 0}, orders[stage][i]});

    const auto cross = [&](Payload payload, int boundary, int from, int to, int micro_batch) {
        const int64_t time = payload == Payload::activation
                                 ? timeline.forward_end(from, micro_batch)
                                 : timeline.gradient_end(from, micro_batch);
        const int sender = from % config.stages, receiver = to % config.stages;
        const decltype(Event::key) key{time, false, boundary, payload, micro_batch};
        const Message send{payload, micro_batch, from / config.stages, receiver};
        const Message receive{payload, micro_batch, to / config.stages, sender};
        events[static_cast<size_t>(sender)].push_back({key, Exchange{.send = send}});
        events[static_cast<size_t>(receiver)].push_back({key, Exchange{.receive = receive}});
    };
    if (config.stages > 1)  // chunks of one and the same stage hand over without messages
        for (int boundary = 0; boundary + 1 < config.virtual_stages(); ++boundary)
            for (int i = 0; i < config.micro_batches; ++i) {
                cross(Payload::activation, boundary, boundary, boundary + 1, i);
                cross(Payload::gradient, boundary, boundary + 1, boundary, i);
            }
    return events;
}

/// Adds the action, or joins it with the last one if one of them sends and the other receives.
void append(std::vector<Action>& actions, const Action& action) {
    const auto* next = std::get_if<Exchange>(&action);
    auto* last = actions.empty() ? nullptr : std::get_if<Exchange>(&actions.back());
    if (next && last && !(last->send && last->receive) &&
        last->send.has_value() != next->send.has_value()) {
        if (next->send) last->send = next->send;
        if (next->receive) last->receive = next->receive;
        return;
    }
    actions.push_back(action);
}

}  // namespace

std::vector<std::vector<Action>> place_messages(const ScheduleConfig& config,
                                                const ComputeOrders& orders) {
    std::vector<std::vector<Action>> lists;
    for (auto& events : lay_out(config, orders)) {
        std::sort(events.begin(), events.end(),
                  [](const Event& a, const Event& b) { return a.key < b.key; });
        auto& actions = lists.emplace_back();
        for (const Event& event : events)
            append(actions, event.action);
    }
    return lists;
}

}  // namespace plinth::parallel
