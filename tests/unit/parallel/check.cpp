// SPDX-License-Identifier: Apache-2.0
#include "parallel/pipeline_parallel/check.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/support/expect_error.h"

namespace plinth::test {
namespace {

using parallel::Action;
using parallel::check_schedule;
using parallel::Compute;
using parallel::Exchange;
using parallel::make_schedule;
using parallel::Message;
using parallel::Pass;
using parallel::PassCosts;
using parallel::Payload;
using parallel::Schedule;
using parallel::ScheduleConfig;
using parallel::ScheduleKind;

constexpr ScheduleKind kinds[] = {ScheduleKind::gpipe, ScheduleKind::one_f_one_b,
                                  ScheduleKind::interleaved, ScheduleKind::zero_bubble_h1};

// ---- what the papers promise, per chunk: F forward, I input half, W weight half ----

int64_t published_bubble(const ScheduleConfig& config, const PassCosts& c) {
    const int64_t P = config.stages, M = config.micro_batches, V = config.chunks;
    const int64_t pass = c.forward + c.input_grad + c.weight_grad;
    // With fewer micro-batches than stages, which the papers leave out, each change of chunks
    // waits for the stages without a micro-batch, and ZB-H1 lacks weight halves to fill its end.
    const int64_t missing = std::max<int64_t>(0, P - M);
    switch (config.kind) {
        case ScheduleKind::gpipe:
        case ScheduleKind::one_f_one_b:
            return (P - 1) * pass;
        case ScheduleKind::interleaved:
            return (P - 1) * pass + (V - 1) * missing * pass;
        case ScheduleKind::zero_bubble_h1:  // for W <= I
            return (P - 1) * (c.forward + c.input_grad - c.weight_grad) + missing * c.weight_grad;
    }
    return -1;
}

int published_peak(const ScheduleConfig& config, int stage) {
    const int P = config.stages, M = config.micro_batches, V = config.chunks;
    const int groups = std::max(1, M / P), largest_group = (M + groups - 1) / groups;
    switch (config.kind) {
        case ScheduleKind::gpipe:
            return M;
        case ScheduleKind::one_f_one_b:
            return std::min(M, P - stage);
        case ScheduleKind::interleaved:
            if (V == 1) return std::min(M, P - stage);
            return std::min(M * V, 2 * (P - 1 - stage) + (V - 1) * largest_group + 1);
        case ScheduleKind::zero_bubble_h1:
            return std::min(M, P);
    }
    return -1;
}

std::string name(const ScheduleConfig& config) {
    return fmt::format("{}, {} stages, {} micro-batches, {} chunks", name_of(config.kind),
                       config.stages, config.micro_batches, config.chunks);
}

void expect_as_published(const Schedule& schedule, const PassCosts& costs) {
    const ScheduleConfig& config = schedule.config;
    const auto report = check_schedule(schedule, costs);
    const int64_t work = int64_t{config.micro_batches} * config.chunks *
                         (costs.forward + costs.input_grad + costs.weight_grad);
    for (int stage = 0; stage < config.stages; ++stage) {
        const auto& mine = report.stages[static_cast<size_t>(stage)];
        ASSERT_EQ(mine.busy, work) << name(config);
        ASSERT_EQ(report.bubble(stage), published_bubble(config, costs)) << name(config);
        ASSERT_EQ(mine.peak_activations, published_peak(config, stage))
            << name(config) << ", stage " << stage;
        ASSERT_LE(mine.peak_waiting, config.chunks * config.micro_batches);
    }
    ASSERT_GE(report.blocking_makespan, report.makespan);
}

TEST(CheckSchedule, EveryScheduleIsSoundAndAsPublished) {
    int sound = 0, refused = 0;
    for (const ScheduleKind kind : kinds)
        for (int stages = 1; stages <= 8; ++stages)
            for (int micro_batches = 1; micro_batches <= 32; ++micro_batches)
                for (int chunks = 1; chunks <= 4; ++chunks) {
                    const ScheduleConfig config{kind, stages, micro_batches, chunks};
                    if (chunks > 1 && kind != ScheduleKind::interleaved) {
                        EXPECT_THROW(make_schedule(config), Error);
                        ++refused;
                        continue;
                    }
                    const Schedule schedule = make_schedule(config);
                    expect_as_published(schedule, {});
                    expect_as_published(schedule,
                                        {.forward = 2, .input_grad = 3, .weight_grad = 2});
                    if (HasFatalFailure()) return;
                    ++sound;
                }
    EXPECT_EQ(sound, 8 * 32 * (4 + 3));
    EXPECT_EQ(refused, 8 * 32 * 3 * 3);
}

TEST(CheckSchedule, SendsThatBlockCostNothingExceptBetweenChunks) {
    for (const ScheduleKind kind : kinds) {
        const auto report = check_schedule(make_schedule({kind, 8, 32, 1}));
        EXPECT_EQ(report.blocking_makespan, report.makespan) << name_of(kind);
    }
    // The last stage would stand until the first comes to the next chunk.
    const auto report = check_schedule(make_schedule({ScheduleKind::interleaved, 8, 32, 2}));
    EXPECT_GT(report.blocking_makespan, report.makespan);
    EXPECT_GT(report.stages[0].peak_waiting, 1);
}

// ---- mutants ----

Schedule small(ScheduleKind kind) {
    return make_schedule({kind, 3, 4, kind == ScheduleKind::interleaved ? 2 : 1});
}

/// The place of an action in its stage's list.
size_t find(const Schedule& schedule, size_t stage, const Action& action) {
    const auto& list = schedule.actions[stage];
    const auto found = std::find(list.begin(), list.end(), action);
    CHECK(found != list.end(), "stage {} has no {}", stage, describe(action));
    return static_cast<size_t>(found - list.begin());
}

template <typename... Parts>
void expect_caught(const Schedule& schedule, const Parts&... parts) {
    expect_error(
        ErrorKind::internal, [&] { check_schedule(schedule); }, parts...);
}

TEST(CheckSchedule, CatchesEveryDroppedAndEveryRepeatedAction) {
    int mutants = 0;
    for (const ScheduleKind kind : kinds) {
        const Schedule sound = small(kind);
        for (size_t stage = 0; stage < sound.actions.size(); ++stage)
            for (size_t i = 0; i < sound.actions[stage].size(); ++i) {
                const auto place = static_cast<std::ptrdiff_t>(i);
                Schedule dropped = sound, repeated = sound;
                auto& less = dropped.actions[stage];
                less.erase(less.begin() + place);
                expect_caught(dropped, name_of(kind));
                auto& more = repeated.actions[stage];
                more.insert(more.begin() + place, Action(more[i]));
                expect_caught(repeated, name_of(kind));
                mutants += 2;
            }
    }
    EXPECT_GT(mutants, 300);
}

TEST(CheckSchedule, CatchesEveryDroppedHalfOfAnExchange) {
    int mutants = 0;
    for (const ScheduleKind kind : kinds) {
        const Schedule sound = small(kind);
        for (size_t stage = 0; stage < sound.actions.size(); ++stage)
            for (size_t i = 0; i < sound.actions[stage].size(); ++i) {
                const auto* both = std::get_if<Exchange>(&sound.actions[stage][i]);
                if (!both || !both->send || !both->receive) continue;
                Schedule mutant = sound;
                mutant.actions[stage][i] = Exchange{.send = both->send};
                expect_caught(mutant, name_of(kind));
                mutant.actions[stage][i] = Exchange{.receive = both->receive};
                expect_caught(mutant, name_of(kind));
                mutants += 2;
            }
    }
    EXPECT_GT(mutants, 30);
}

TEST(CheckSchedule, CatchesTwoExchangedComputations) {
    for (const ScheduleKind kind : kinds) {
        Schedule schedule = small(kind);
        auto& list = schedule.actions[0];
        std::swap(list[find(schedule, 0, Compute{Pass::forward, 0, 0})],
                  list[find(schedule, 0, Compute{Pass::forward, 1, 0})]);
        expect_caught(schedule, "stage 0 at action 0", "out of slot order",
                      "forward pass is that of micro-batch 0");
    }
}

TEST(CheckSchedule, NamesAComputationThatRunsTwice) {
    Schedule schedule = small(ScheduleKind::gpipe);
    auto& list = schedule.actions[0];
    list.push_back(Compute{Pass::backward, 3, 0});
    expect_caught(schedule, "stage 0", "backward of micro-batch 3", "input half has been run");
}

TEST(CheckSchedule, CatchesAComputationBeforeItsInput) {
    Schedule schedule = small(ScheduleKind::one_f_one_b);
    std::swap(schedule.actions[1][0], schedule.actions[1][1]);
    expect_caught(schedule, "stage 1 at action 0", "forward of micro-batch 0",
                  "input is not there");
    schedule = small(ScheduleKind::one_f_one_b);
    auto& last = schedule.actions[2];
    std::swap(last[find(schedule, 2, Compute{Pass::forward, 0, 0})],
              last[find(schedule, 2, Compute{Pass::backward, 0, 0})]);
    expect_caught(schedule, "stage 2", "backward pass comes before the forward pass");
}

TEST(CheckSchedule, CatchesAWeightHalfBeforeItsInputHalf) {
    Schedule schedule = small(ScheduleKind::zero_bubble_h1);
    auto& list = schedule.actions[0];
    std::swap(list[find(schedule, 0, Compute{Pass::input_grad, 1, 0})],
              list[find(schedule, 0, Compute{Pass::weight_grad, 1, 0})]);
    expect_caught(schedule, "stage 0", "weight_grad of micro-batch 1",
                  "weight half comes before the input half");
}

/// Everywhere: what was done with micro-batch 1 is done with 2 and the other way round.
void exchange_slots(Schedule& schedule) {
    const auto other = [](int& micro_batch) {
        if (micro_batch == 1 || micro_batch == 2) micro_batch = 3 - micro_batch;
    };
    for (auto& list : schedule.actions)
        for (Action& action : list) {
            if (auto* compute = std::get_if<Compute>(&action)) {
                other(compute->micro_batch);
                continue;
            }
            auto& [send, receive] = std::get<Exchange>(action);
            if (send) other(send->micro_batch);
            if (receive) other(receive->micro_batch);
        }
}

TEST(CheckSchedule, CatchesASlotOutOfOrderInAnOtherwiseSoundSchedule) {
    for (const ScheduleKind kind : kinds) {
        Schedule schedule = small(kind);
        exchange_slots(schedule);
        expect_caught(schedule, "out of slot order", "micro-batch 1");
        exchange_slots(schedule);
        EXPECT_NO_THROW(check_schedule(schedule));
    }
    Schedule schedule = small(ScheduleKind::zero_bubble_h1);  // the weight halves alone
    auto& list = schedule.actions[2];
    std::swap(list[find(schedule, 2, Compute{Pass::weight_grad, 2, 0})],
              list[find(schedule, 2, Compute{Pass::weight_grad, 3, 0})]);
    expect_caught(schedule, "stage 2", "out of slot order, the next weight half");
}

TEST(CheckSchedule, CatchesAMissingSend) {
    Schedule schedule = small(ScheduleKind::gpipe);
    auto& list = schedule.actions[1];
    list.erase(list.begin() +
               static_cast<std::ptrdiff_t>(
                   find(schedule, 1, Exchange{.send = Message{Payload::gradient, 3, 0, 0}})));
    expect_caught(schedule, "deadlock: stage 0 at action", "receive of gradient 3",
                  "stage 1 at its end; stage 2 at its end");
}

TEST(CheckSchedule, ExchangedReceivesDeadlock) {
    // The stage in the middle waits for a gradient before it takes what that gradient needs.
    Schedule schedule = small(ScheduleKind::zero_bubble_h1);
    auto& list = schedule.actions[1];
    const Exchange activation{.receive = Message{Payload::activation, 0, 0, 0}};
    const Exchange gradient{.receive = Message{Payload::gradient, 0, 0, 2}};
    std::swap(list[find(schedule, 1, activation)], list[find(schedule, 1, gradient)]);
    expect_caught(schedule, "deadlock: stage 0 at action 1, send of activation 0",
                  "stage 1 at action 0, receive of gradient 0, chunk 0, from stage 2",
                  "stage 2 at action 0, receive of activation 0, chunk 0, from stage 1");
}

TEST(CheckSchedule, ReceivesFromOneStageMatchInOrder) {
    Schedule schedule = small(ScheduleKind::gpipe);
    auto& list = schedule.actions[2];
    const auto receive = [](int i) {
        return Exchange{.receive = Message{Payload::activation, i, 0, 1}};
    };
    std::swap(list[find(schedule, 2, receive(0))], list[find(schedule, 2, receive(1))]);
    expect_caught(schedule, "stage 1", "send of activation 0", "messages out of order",
                  "receive of activation 1");
}

TEST(CheckSchedule, TwoStagesThatBothReceiveFirstDeadlock) {
    Schedule schedule = make_schedule({ScheduleKind::one_f_one_b, 2, 3, 1});
    const auto split = [&](size_t stage, size_t place, bool receive_first) {
        auto& list = schedule.actions[stage];
        const auto [send, receive] = std::get<Exchange>(list[place]);
        CHECK(send && receive, "stage {} at {} does only one thing", stage, place);
        list[place] = Exchange{.send = send};
        list.insert(list.begin() + static_cast<std::ptrdiff_t>(place + (receive_first ? 0 : 1)),
                    Exchange{.receive = receive});
    };
    split(0, 6, true);
    EXPECT_NO_THROW(check_schedule(schedule));  // the other side still does both at once
    split(1, 7, true);
    expect_caught(schedule, "deadlock: stage 0 at action 6, receive of gradient 1",
                  "stage 1 at action 7, receive of activation 2");
}

TEST(CheckSchedule, CatchesMessagesThatNobodyNeeds) {
    Schedule schedule = small(ScheduleKind::gpipe);
    auto& list = schedule.actions[0];
    const size_t send = find(schedule, 0, Exchange{.send = Message{Payload::activation, 0, 0, 1}});
    list[send] = Exchange{.send = Message{Payload::activation, 0, 0, 2}};
    expect_caught(schedule, "to stage 2", "stage 1 needs this");
    list[send] = Exchange{.send = Message{Payload::gradient, 0, 0, 1}};
    expect_caught(schedule, "no stage needs this");
    list[send] = Exchange{.send = Message{Payload::activation, 1, 0, 1}};
    expect_caught(schedule, "has not been computed");
    list[send] = Exchange{.send = Message{Payload::activation, 4, 0, 1}};
    expect_caught(schedule, "there are 4 micro-batches");
    list[send] = Exchange{};
    expect_caught(schedule, "sends and receives nothing");
    schedule.actions.pop_back();
    expect_caught(schedule, "2 lists for 3 stages");
}

TEST(CheckSchedule, CatchesAMessageSentAndReceivedTwice) {
    Schedule schedule = small(ScheduleKind::gpipe);
    const auto repeat = [&](size_t stage, const Action& action) {
        auto& list = schedule.actions[stage];
        const auto place = static_cast<std::ptrdiff_t>(find(schedule, stage, action));
        list.insert(list.begin() + place, action);
    };
    repeat(0, Exchange{.send = Message{Payload::activation, 0, 0, 1}});
    repeat(1, Exchange{.receive = Message{Payload::activation, 0, 0, 0}});
    expect_caught(schedule, "receive of activation 0", "received a second time");
}

}  // namespace
}  // namespace plinth::test
