// SPDX-License-Identifier: Apache-2.0
#include "parallel/pipeline_parallel/check.h"

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>

#include "kernels/runtime/error.h"

namespace plinth::parallel {

namespace {

/// What is known of one micro-batch on one virtual stage.
struct Cell {
    int64_t forward_end = 0, gradient_end = 0;
    bool has_input = false;     ///< the activation below was received
    bool has_gradient = false;  ///< the gradient of the output was received
};

/// How many micro-batches a virtual stage has behind it: the next one has this number.
struct Progress {
    int forward = 0, input_grad = 0, weight_grad = 0;
};

struct Stage {
    size_t position = 0;                        ///< in its list
    bool is_sent = false, is_received = false;  ///< halves of the exchange it stands at
    int64_t clock = 0;                          ///< messages move beside the computation
    int64_t blocking_clock = 0;                 ///< it stands still in exchanges
    int64_t exchange_end = 0;                   ///< by the blocking clock, of the halves done
    int activations = 0, waiting = 0;
};

class Execution {
  public:
    Execution(const Schedule& schedule, const PassCosts& costs)
        : config_(schedule.config),
          lists_(schedule.actions),
          costs_(costs),
          stages_(lists_.size()),
          progress_(static_cast<size_t>(config_.virtual_stages())),
          cells_(progress_.size() * static_cast<size_t>(config_.micro_batches)),
          report_{.stages = std::vector<StageReport>(lists_.size())} {
        CHECK(lists_.size() == static_cast<size_t>(config_.stages), "{} lists for {} stages",
              lists_.size(), config_.stages);
    }

    ScheduleReport run() {
        for (bool moved = true; moved;) {
            moved = false;
            for (int stage = 0; stage < config_.stages; ++stage)
                while (advance(stage))
                    moved = true;
        }
        require_all_at_end();
        require_all_passes_run();
        for (const Stage& stage : stages_) {
            report_.makespan = std::max(report_.makespan, stage.clock);
            report_.blocking_makespan = std::max(report_.blocking_makespan, stage.blocking_clock);
        }
        return report_;
    }

  private:
    Stage& at(int stage) { return stages_[static_cast<size_t>(stage)]; }
    StageReport& report(int stage) { return report_.stages[static_cast<size_t>(stage)]; }
    Progress& progress(int virtual_stage) { return progress_[static_cast<size_t>(virtual_stage)]; }
    Cell& cell(int virtual_stage, int micro_batch) {
        return cells_[static_cast<size_t>(virtual_stage * config_.micro_batches + micro_batch)];
    }
    bool is_last(int virtual_stage) const { return virtual_stage + 1 == config_.virtual_stages(); }
    /// The action that the stage stands at; nullptr at the end of its list.
    const Action* current(int stage) {
        const auto& list = lists_[static_cast<size_t>(stage)];
        return at(stage).position < list.size() ? &list[at(stage).position] : nullptr;
    }
    std::string where(int stage) {
        const Action* action = current(stage);
        return action ? fmt::format("stage {} at action {}, {}", stage, at(stage).position,
                                    describe(*action))
                      : fmt::format("stage {} at its end", stage);
    }
    [[noreturn]] void fail(int stage, const std::string& what) {
        FAIL(internal, "{} schedule: {}: {}", name_of(config_.kind), where(stage), what);
    }
    template <typename... Args>
    void require(int stage, bool condition, fmt::format_string<Args...> format, Args&&... args) {
        if (!condition) [[unlikely]]
            fail(stage, fmt::format(format, std::forward<Args>(args)...));
    }

    /// Runs one action, or half of an exchange. False if the stage has to wait.
    bool advance(int stage) {
        const Action* action = current(stage);
        if (!action) return false;
        if (const auto* compute = std::get_if<Compute>(action)) {
            run(stage, *compute);
            ++at(stage).position;
            return true;
        }
        const auto& exchange = std::get<Exchange>(*action);
        require(stage, exchange.send || exchange.receive, "sends and receives nothing");
        // A message is moved by its sender: the receiving half only waits.
        return exchange.send && !at(stage).is_sent && pass(stage, *exchange.send);
    }

    // ---- computation ----

    void run(int stage, const Compute& compute) {
        require_in_range(stage, compute.micro_batch, compute.chunk);
        const int virtual_stage = config_.virtual_stage(stage, compute.chunk);
        switch (compute.pass) {
            case Pass::forward:
                return run_forward(stage, virtual_stage, compute.micro_batch);
            case Pass::backward:
                run_input_grad(stage, virtual_stage, compute.micro_batch, costs_.weight_grad);
                return run_weight_grad(stage, virtual_stage, compute.micro_batch, 0);
            case Pass::input_grad:
                return run_input_grad(stage, virtual_stage, compute.micro_batch, 0);
            case Pass::weight_grad:
                return run_weight_grad(stage, virtual_stage, compute.micro_batch,
                                       costs_.weight_grad);
        }
    }

    void run_forward(int stage, int virtual_stage, int micro_batch) {
        take_turn(stage, progress(virtual_stage).forward, micro_batch, "forward pass");
        int64_t ready = 0;
        if (virtual_stage > 0) {
            require(stage, has_input(virtual_stage, micro_batch), "its input is not there");
            ready = cell(virtual_stage - 1, micro_batch).forward_end;
            use_message(stage);
        }
        cell(virtual_stage, micro_batch).forward_end = spend(stage, ready, costs_.forward);
        report(stage).peak_activations =
            std::max(report(stage).peak_activations, ++at(stage).activations);
    }

    /// `more` is the time of a weight half that is part of the same pass.
    void run_input_grad(int stage, int virtual_stage, int micro_batch, int64_t more) {
        require(stage, micro_batch < progress(virtual_stage).forward,
                "the backward pass comes before the forward pass");
        take_turn(stage, progress(virtual_stage).input_grad, micro_batch, "input half");
        int64_t ready = 0;
        if (!is_last(virtual_stage)) {
            require(stage, has_gradient(virtual_stage, micro_batch),
                    "the gradient of its output is not there");
            ready = cell(virtual_stage + 1, micro_batch).gradient_end;
            use_message(stage);
        }
        cell(virtual_stage, micro_batch).gradient_end =
            spend(stage, ready, costs_.input_grad + more);
    }

    void run_weight_grad(int stage, int virtual_stage, int micro_batch, int64_t cost) {
        require(stage, micro_batch < progress(virtual_stage).input_grad,
                "the weight half comes before the input half");
        take_turn(stage, progress(virtual_stage).weight_grad, micro_batch, "weight half");
        spend(stage, 0, cost);
        --at(stage).activations;
    }

    void require_in_range(int stage, int micro_batch, int chunk) {
        require(stage,
                micro_batch >= 0 && micro_batch < config_.micro_batches && chunk >= 0 &&
                    chunk < config_.chunks,
                "there are {} micro-batches and {} chunks", config_.micro_batches, config_.chunks);
    }

    void take_turn(int stage, int& next, int micro_batch, std::string_view what) {
        require(stage, micro_batch >= next, "the {} has been run", what);
        require(stage, micro_batch == next,
                "out of slot order, the next {} is that of micro-batch {}", what, next);
        ++next;
    }

    int64_t spend(int stage, int64_t ready, int64_t cost) {
        at(stage).clock = std::max(at(stage).clock, ready) + cost;
        at(stage).blocking_clock += cost;
        report(stage).busy += cost;
        return at(stage).clock;
    }

    // ---- messages ----

    /// Neighbours on one stage (P = 1) hand over without messages.
    bool is_local() const { return config_.stages == 1; }
    bool has_input(int virtual_stage, int micro_batch) {
        return is_local() ? micro_batch < progress(virtual_stage - 1).forward
                          : cell(virtual_stage, micro_batch).has_input;
    }
    bool has_gradient(int virtual_stage, int micro_batch) {
        return is_local() ? micro_batch < progress(virtual_stage + 1).input_grad
                          : cell(virtual_stage, micro_batch).has_gradient;
    }
    void use_message(int stage) {
        if (!is_local()) --at(stage).waiting;
    }

    /// The virtual stage to which the message goes, seen from the sender.
    int target(int stage, const Message& send) {
        require_in_range(stage, send.micro_batch, send.chunk);
        const bool is_up = send.payload == Payload::activation;
        const int from = config_.virtual_stage(stage, send.chunk);
        require(stage, is_up ? !is_last(from) : from > 0, "no stage needs this");
        const int to = is_up ? from + 1 : from - 1;
        require(stage, send.peer == to % config_.stages && send.peer != stage,
                "stage {} needs this", to % config_.stages);
        require(stage,
                send.micro_batch < (is_up ? progress(from).forward : progress(from).input_grad),
                "the tensor has not been computed");
        return to;
    }

    /// Lets the message through if the peer stands at a receive from this stage.
    bool pass(int stage, const Message& send) {
        const int to = target(stage, send);
        const Action* action = current(send.peer);
        const auto* exchange = action ? std::get_if<Exchange>(action) : nullptr;
        if (!exchange || !exchange->receive || at(send.peer).is_received ||
            exchange->receive->peer != stage)
            return false;
        const Message expected{send.payload, send.micro_batch, to / config_.stages, stage};
        if (*exchange->receive != expected)
            fail(stage, "messages out of order, it meets " + where(send.peer));
        deliver(send.peer, cell(to, send.micro_batch), send.payload);
        finish_halves(stage, send.peer);
        return true;
    }

    void deliver(int stage, Cell& target, Payload payload) {
        bool& is_there = payload == Payload::activation ? target.has_input : target.has_gradient;
        require(stage, !is_there, "received a second time");
        is_there = true;
        report(stage).peak_waiting = std::max(report(stage).peak_waiting, ++at(stage).waiting);
    }

    void finish_halves(int sender, int receiver) {
        const int64_t met = std::max(at(sender).blocking_clock, at(receiver).blocking_clock);
        at(sender).is_sent = true;
        at(receiver).is_received = true;
        for (const int stage : {sender, receiver}) {
            Stage& state = at(stage);
            state.exchange_end = std::max(state.exchange_end, met);
            const auto& exchange = std::get<Exchange>(*current(stage));
            if ((exchange.send && !state.is_sent) || (exchange.receive && !state.is_received))
                continue;
            state.blocking_clock = std::max(state.blocking_clock, state.exchange_end);
            state.is_sent = state.is_received = false;
            state.exchange_end = 0;
            ++state.position;
        }
    }

    // ---- the end ----

    void require_all_at_end() {
        std::string stands;
        bool is_done = true;
        for (int stage = 0; stage < config_.stages; ++stage) {
            stands += (stage ? "; " : "") + where(stage);
            is_done = is_done && !current(stage);
        }
        REQUIRE(internal, is_done, "{} schedule: deadlock: {}", name_of(config_.kind), stands);
    }

    void require_all_passes_run() {
        for (int stage = 0; stage < config_.stages; ++stage)
            for (int chunk = 0; chunk < config_.chunks; ++chunk) {
                const Progress& run = progress(config_.virtual_stage(stage, chunk));
                const int least = std::min({run.forward, run.input_grad, run.weight_grad});
                REQUIRE(internal, least == config_.micro_batches,
                        "{} schedule: stage {} ends without all passes of micro-batch {}, chunk "
                        "{}",
                        name_of(config_.kind), stage, least, chunk);
            }
    }

    const ScheduleConfig& config_;
    const std::vector<std::vector<Action>>& lists_;
    const PassCosts costs_;
    std::vector<Stage> stages_;
    std::vector<Progress> progress_;  // by virtual stage
    std::vector<Cell> cells_;         // by virtual stage and micro-batch
    ScheduleReport report_;
};

}  // namespace

ScheduleReport check_schedule(const Schedule& schedule, const PassCosts& costs) {
    schedule.config.validate();
    return Execution(schedule, costs).run();
}

}  // namespace plinth::parallel
