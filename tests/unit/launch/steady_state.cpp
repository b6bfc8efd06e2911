// SPDX-License-Identifier: Apache-2.0
// A training that learns late what its steps came to: no wait between them, and the same run.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>

#include "launch/config/load.h"
#include "launch/exit_codes.h"
#include "launch/metrics/jsonl_log.h"
#include "launch/pretrain.h"
#include "launch/training.h"
#include "parallel/comm/threads.h"
#include "tests/support/late_queue.h"
#include "tests/support/prepared_text.h"
#include "tests/support/temporary_folder.h"

namespace plinth::test {
namespace {

using namespace plinth::launch;

class SteadyState : public testing::Test {
  protected:
    SteadyState() {
        prepare_texts(folder_.path(), "data", numbered_documents(200, "a small corpus"), 0.3);
    }

    struct Run {
        int exit_code = 0;
        std::vector<QueueCall> calls;  ///< of the first rank
        /// By line: kind, step, loss, norm, learning rate, skipped steps, samples.
        std::vector<std::string> log;
        std::vector<std::string> checkpoints;
    };

    /// In a folder of its own; `name` again goes on from what is there.
    Run train(const std::string& name, std::vector<std::string> words, bool is_late,
              int ranks = 1) {
        return train_where(name, std::move(words), ranks, [is_late](int) { return is_late; });
    }
    /// With ranks of which some learn late what steps came to.
    Run train_where(const std::string& name, std::vector<std::string> words, int ranks,
                    const std::function<bool(int rank)>& is_late) {
        for (const auto& [key, value] :
             {std::pair{"data.sources", fmt::format("[{{path: {}}}]", folder_ / "data")},
              std::pair{"run.folder", folder_ / name},
              std::pair{"run.metrics.tensorboard", std::string("false")},
              std::pair{"run.peak_flops", std::string("1e15")},
              std::pair{"model.width", std::string("16")},
              std::pair{"data.sequence_length", std::string("16")}})
            words.insert(words.begin(), fmt::format("{}={}", key, value));
        const RunConfig config = load<RunConfig>(
            core::io::posix(), std::string(PLINTH_SOURCE_DIR) + "/configs/gpt/tiny.yaml", words);
        Run run;
        std::vector<int> exit_codes(static_cast<size_t>(ranks));
        std::vector<std::vector<QueueCall>> calls(static_cast<size_t>(ranks));
        parallel::run_as_threads(ranks, [&](parallel::Communicator& world) {
            Session session(world, 1);
            const auto me = static_cast<size_t>(world.rank());
            if (is_late(world.rank()))
                session.stream().set_queue(std::make_unique<LateQueue>(calls[me]));
            exit_codes[me] = pretrain(config, session, /*dry_run=*/false);
        });
        run.exit_code = exit_codes.front();
        EXPECT_EQ(exit_codes, std::vector(exit_codes.size(), run.exit_code));
        run.calls = calls.front();
        read_metrics(core::io::posix(), folder_ / (name + "/metrics.jsonl"),
                     [&](const core::io::Json& line) { run.log.push_back(comparable(line)); });
        for (const auto& entry :
             std::filesystem::directory_iterator(folder_ / (name + "/checkpoints")))
            if (const std::string file = entry.path().filename(); file.starts_with("step-"))
                run.checkpoints.push_back(file.substr(0, file.find('.')));
        std::ranges::sort(run.checkpoints);
        return run;
    }

    TemporaryFolder folder_;

  private:
    /// All that no clock decides.
    static std::string comparable(const core::io::Json& line) {
        std::string text;
        for (const char* key :
             {"kind", "step", "loss_hex", "held_out_loss_hex", "grad_norm_hex", "learning_rate",
              "skipped_steps", "samples", "tokens", "global_batch"})
            if (const core::io::Json* value = line.find(key))
                text += fmt::format("{}={} ", key, value->dump());
        return text;
    }
};

const std::vector<std::string> nine_steps{"train.steps=9", "checkpoint.every=0"};

/// True if from the end of the first step to that of the last the host waits for nothing but the
/// step before each. In a step it notes that many places, the last one at the end.
bool waits_for_steps_alone(const std::vector<QueueCall>& calls, size_t steps, size_t places = 1) {
    std::vector<QueueCall> expected;
    for (size_t step = 0; step < steps; ++step) {
        for (size_t place = 0; place < places; ++place)
            expected.push_back({QueueCall::place, step * places + place});
        if (step > 0) expected.push_back({QueueCall::wait_for_place, step * places - 1});
    }
    const auto first = std::ranges::find(calls, QueueCall{QueueCall::place, 0});
    return std::equal(
        expected.begin(), expected.end(), first,
        first + std::min<std::ptrdiff_t>(calls.end() - first,
                                         static_cast<std::ptrdiff_t>(expected.size())));
}

TEST_F(SteadyState, TheHostWaitsForNothingButTheStepBefore) {
    const Run run = train("late", nine_steps, true);
    EXPECT_EQ(run.exit_code, exit_done);
    EXPECT_TRUE(waits_for_steps_alone(run.calls, 9));
    // The mutant: where the host decides, it waits for losses and norm of each step.
    std::vector<std::string> words = nine_steps;
    words.push_back("optimizer.offload=states");
    const Run host = train("host", words, true);
    EXPECT_FALSE(waits_for_steps_alone(host.calls, 9));
    EXPECT_GE(std::ranges::count(host.calls, QueueCall{QueueCall::wait_for_all}), 2 * 9);
}

/// Waits for all of the device's work from the first place to the last; in the whole run of a host
/// that notes none, since it decides itself.
int64_t waits_for_all_between(const std::vector<QueueCall>& calls) {
    const auto is_place = [](const QueueCall& call) { return call.kind == QueueCall::place; };
    const auto first = std::ranges::find_if(calls, is_place);
    if (first == calls.end()) return std::ranges::count(calls, QueueCall{QueueCall::wait_for_all});
    const auto last = std::find_if(calls.rbegin(), calls.rend(), is_place).base();
    return std::count(first, last, QueueCall{QueueCall::wait_for_all});
}

TEST_F(SteadyState, TheHostsOfSeveralRanksStayNearTheirDevicesAndNeverWaitForAllOfTheirWork) {
    for (const char* layout : {"parallel.data=2", "parallel.pipeline=2"}) {
        std::vector<std::string> words = nine_steps;
        words.insert(words.end(), {layout, "train.global_batch=8", "train.micro_batch=2"});
        const Run run = train(std::string("late ") + layout, words, true, 2),
                  prompt = train(std::string("prompt ") + layout, words, false, 2);
        EXPECT_EQ(run.exit_code, exit_done);
        EXPECT_EQ(run.log, prompt.log);
        EXPECT_EQ(waits_for_all_between(run.calls), 0) << layout;
        EXPECT_GE(std::ranges::count(run.calls, QueueCall::wait_for_place, &QueueCall::kind),
                  9 * 2);
        // The mutant: a host that decides.
        words.push_back("optimizer.offload=states");
        const Run host = train(std::string("host ") + layout, words, true, 2);
        EXPECT_EQ(run.log, host.log);
        EXPECT_GE(waits_for_all_between(host.calls), 2 * 8) << layout;
    }
}

TEST_F(SteadyState, CapturedStepsAreTheSameRun) {
    std::vector<std::string> words{"train.steps=10", "checkpoint.every=4", "train.eval_every=4",
                                   "train.eval_batches=2", "model.dropout=0"};
    const Run plain = train("plain", words, false);
    words.push_back("run.graphs=true");
    const Run late = train("late", words, true), prompt = train("prompt", words, false);
    EXPECT_EQ(plain.log, late.log);
    EXPECT_EQ(plain.log, prompt.log);
    EXPECT_EQ(plain.checkpoints, late.checkpoints);
    // A run that goes on captures anew.
    for (const auto& entry : std::filesystem::directory_iterator(folder_ / "late/checkpoints"))
        if (!entry.path().filename().string().starts_with("step-000000000004"))
            std::filesystem::remove_all(entry.path());
    EXPECT_EQ(train("late", words, true).log, plain.log);
}

const std::vector<std::string> eight_bits{"train.dtype=bf16", "train.fp8=delayed"};

// The second place of a step is that at which the device tells what its history knows.
TEST_F(SteadyState, ScalesOfTheStepsBeforeNeedNoWait) {
    std::vector<std::string> words = eight_bits;
    words.insert(words.end(), nine_steps.begin(), nine_steps.end());
    const Run late = train("late", words, true), prompt = train("prompt", words, false);
    EXPECT_EQ(late.exit_code, exit_done);
    EXPECT_TRUE(waits_for_steps_alone(late.calls, 9, 2));
    EXPECT_EQ(late.log, prompt.log);
    words.push_back("train.global_batch=8");
    words.push_back("train.micro_batch=2");
    const Run one = train("one", words, true);
    words.push_back("parallel.data=2");
    const Run two = train("two", words, true, 2);
    EXPECT_EQ(waits_for_all_between(two.calls), 0);
    EXPECT_EQ(one.log, two.log);
    words.push_back("optimizer.offload=states");
    EXPECT_EQ(one.log, train("host", words, true, 2).log) << "decided by the host";
    words.push_back("train.fp8=current");
    EXPECT_NE(one.log, train("mutant", words, true, 2).log);
}

TEST_F(SteadyState, ScalesOfTheStepsBeforeAreInCheckpoints) {
    std::vector<std::string> words = eight_bits;
    words.insert(words.end(), {"train.steps=10", "checkpoint.every=4", "model.dropout=0"});
    const Run plain = train("plain", words, false);
    words.push_back("run.graphs=true");
    const Run late = train("late", words, true);
    EXPECT_EQ(plain.log, late.log);
    for (const auto& entry : std::filesystem::directory_iterator(folder_ / "late/checkpoints"))
        if (!entry.path().filename().string().starts_with("step-000000000004"))
            std::filesystem::remove_all(entry.path());
    EXPECT_EQ(train("late", words, true).log, plain.log);
}

TEST_F(SteadyState, ALateRunLogsAndSavesWhatOneThatWaitsDoes) {
    const std::vector<std::string> words{"train.steps=10", "checkpoint.every=3",
                                         "checkpoint.keep=9", "train.eval_every=4",
                                         "train.eval_batches=2"};
    const Run late = train("late", words, true), prompt = train("prompt", words, false);
    EXPECT_EQ(late.log, prompt.log);
    EXPECT_EQ(late.checkpoints, prompt.checkpoints);
    EXPECT_EQ(late.checkpoints.size(), 4u);
    std::vector<std::string> host_words = words;
    host_words.push_back("optimizer.offload=states");
    EXPECT_EQ(late.log, train("host", host_words, true).log);
    host_words.push_back("train.seed=5");
    EXPECT_NE(late.log, train("mutant", host_words, true).log);
}

TEST_F(SteadyState, ResumeGoesOnAsIfNothingHadBeen) {
    const std::vector<std::string> words{"train.steps=10", "checkpoint.every=4"};
    const Run whole = train("whole", words, true);
    // Its steps after the fourth are made again.
    for (const auto& entry : std::filesystem::directory_iterator(folder_ / "whole/checkpoints"))
        if (!entry.path().filename().string().starts_with("step-000000000004"))
            std::filesystem::remove_all(entry.path());
    const Run again = train("whole", words, true);
    EXPECT_EQ(whole.log, again.log);
    EXPECT_EQ(whole.checkpoints.back(), again.checkpoints.back());
}

TEST_F(SteadyState, SkippedStepsAreCountedAndEndTheRunWhereTheyShould) {
    // An absurd learning rate: soon nothing is finite.
    const std::vector<std::string> absurd{"train.steps=12",        "optimizer.lr=1e30",
                                          "optimizer.min_lr=1e30", "optimizer.warmup_steps=0",
                                          "checkpoint.every=1",    "checkpoint.keep=1"};
    for (const int most : {0, 1, 2, 4}) {
        std::vector<std::string> words = absurd;
        words.push_back(fmt::format("train.max_skipped_steps={}", most));
        const Run late = train(fmt::format("late-{}", most), words, true),
                  prompt = train(fmt::format("prompt-{}", most), words, false);
        EXPECT_EQ(late.exit_code, most == 0 ? exit_done : exit_diverged);
        EXPECT_EQ(late.exit_code, prompt.exit_code);
        EXPECT_EQ(late.log, prompt.log) << most;
        EXPECT_EQ(late.checkpoints, prompt.checkpoints) << most;
        EXPECT_NE(late.log.back().find("skipped_steps="), std::string::npos);
        EXPECT_EQ(late.log.size() < 12u, most > 0);
    }
}

// What a rank does between steps must not depend on when it learns what they came to.
TEST_F(SteadyState, RanksThatLearnAtDifferentTimesAreTheSameRun) {
    const std::vector<std::string> few{"train.global_batch=8", "train.micro_batch=2",
                                       "train.steps=12", "checkpoint.keep=9"};
    const auto expect_same = [&](const std::string& name, std::vector<std::string> words,
                                 int exit_code) {
        words.insert(words.end(), few.begin(), few.end());
        const Run prompt = train_where("prompt " + name, words, 2, [](int) { return false; });
        EXPECT_EQ(prompt.exit_code, exit_code) << name;
        for (const int late_rank : {0, 1}) {
            const Run run = train_where(fmt::format("late {} {}", late_rank, name), words, 2,
                                        [late_rank](int rank) { return rank == late_rank; });
            EXPECT_EQ(run.exit_code, prompt.exit_code) << name << ", late: " << late_rank;
            EXPECT_EQ(run.log, prompt.log) << name << ", late: " << late_rank;
            EXPECT_EQ(run.checkpoints, prompt.checkpoints) << name << ", late: " << late_rank;
            EXPECT_EQ(run.calls.empty(), late_rank != 0);
        }
        return prompt;
    };
    for (const char* layout : {"parallel.data=2", "parallel.pipeline=2"}) {
        const std::string name = fmt::format("{} ", layout);
        const Run sound = expect_same(
            name + "sound",
            {layout, "checkpoint.every=3", "train.eval_every=4", "train.eval_batches=2"},
            exit_done);
        EXPECT_EQ(sound.checkpoints.size(), 4u);
        std::vector<Run> diverged;
        for (const int most : {1, 2, 4}) {
            diverged.push_back(expect_same(
                fmt::format("{}{}", name, most),
                {layout, "optimizer.lr=1e30", "optimizer.min_lr=1e30", "optimizer.warmup_steps=0",
                 "checkpoint.every=1", fmt::format("train.max_skipped_steps={}", most)},
                exit_diverged));
            EXPECT_LT(diverged.back().log.size(), 12u);
        }
        EXPECT_NE(diverged[0].log, diverged[1].log) << "another number of skipped steps";
        EXPECT_NE(diverged[1].log, diverged[2].log);
    }
}

}  // namespace
}  // namespace plinth::test
