// SPDX-License-Identifier: Apache-2.0
// train.fp8: what changes no bit, what changes them, and what is refused.
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include "launch/layout_compare.h"
#include "parallel/comm/self.h"
#include "tests/support/altered_group.h"
#include "tests/support/expect_error.h"
#include "tests/support/memory_files.h"
#include "tests/unit/launch/engine_checkpoints.h"
#include "tests/unit/launch/late_runs.h"

namespace plinth::launch::test {
namespace {

using plinth::test::AlteredGroup;
using plinth::test::expect_error;

// Of every layout below the cut extents are multiples of 16.
RunConfig fp8_config(const std::string& file, const std::string& scaling,
                     const std::vector<std::string>& more = {}) {
    std::vector<std::string> words{"train.dtype=bf16", "train.global_batch=6", "train.lanes=6",
                                   "train.fp8=" + scaling};
    if (file.find("llama") != std::string::npos) words.push_back("model.ffn_width=96");
    words.insert(words.end(), more.begin(), more.end());
    return tiny_config(file, words);
}

constexpr int steps = 4;

class Fp8Engine : public testing::TestWithParam<std::tuple<const char*, const char*>> {
  protected:
    RunConfig config(const std::vector<std::string>& more = {}) const {
        return fp8_config(std::get<0>(GetParam()), std::get<1>(GetParam()), more);
    }
};

TEST_P(Fp8Engine, RanksAndRecomputeChangeNoBit) {
    const EngineRun one = run_engine(config(), {.steps = steps});
    ASSERT_TRUE(std::ranges::all_of(one.losses, [](double x) { return std::isfinite(x); }));
    EXPECT_NE(one.losses.front(), one.losses.back());
    for (const char* recompute : {"none", "selective", "full"})
        EXPECT_EQ(difference(one, run_engine(config({fmt::format("train.recompute={}", recompute)}),
                                             {.steps = steps})),
                  "")
            << recompute;
    for (int zero = 0; zero <= 3; ++zero)
        for (const int ranks : {2, 4})
            EXPECT_EQ(difference(one, run_engine(config({fmt::format("parallel.zero={}", zero)}),
                                                 {.ranks = ranks, .steps = steps})),
                      "")
                << "zero " << zero << ", " << ranks << " ranks";
    for (const char* schedule : {"gpipe", "1f1b", "zero_bubble"})
        for (const char* recompute : {"none", "norms", "selective"})
            EXPECT_EQ(
                difference(one, run_engine(config({"parallel.pipeline=2", "parallel.zero=1",
                                                   fmt::format("parallel.schedule={}", schedule),
                                                   fmt::format("train.recompute={}", recompute)}),
                                           {.ranks = 4, .steps = steps})),
                "")
                << schedule << " " << recompute;
}

TEST_P(Fp8Engine, TensorAndContextRanksAreWithinRounding) {
    const std::string tokens = "data.sequence_length=32";  // 16 on a context rank
    const EngineRun one = run_engine(config({tokens}), {.steps = steps});
    for (const char* layout : {"parallel.tensor=2", "parallel.context=2"}) {
        const EngineRun two = run_engine(config({tokens, layout}), {.ranks = 2, .steps = steps});
        EXPECT_NEAR(two.norms[0] / one.norms[0], 1.0, bf16_tolerance) << layout;
        for (size_t i = 0; i < one.losses.size(); ++i)
            EXPECT_NEAR(two.losses[i] / one.losses[i], 1.0, bf16_tolerance) << layout << i;
        EXPECT_EQ(difference(two, run_engine(config({tokens, layout, "parallel.zero=1"}),
                                             {.ranks = 4, .steps = steps})),
                  "")
            << layout;
    }
}

/// What a resume takes over.
struct Stopped {
    plinth::test::MemoryFiles files;
    std::string history;
};

TEST_P(Fp8Engine, AResumeEqualsNoInterruption) {
    const EngineRun whole = run_engine(config(), {.steps = 6});
    Stopped stopped;
    run_engine(config(), {.steps = 3, .after_step = [&](EngineRank& rank) {
                              if (rank.step.step < 3) return;
                              save(rank, stopped.files);
                              stopped.history = rank.engine.fp8_history();
                          }});
    const auto resumed = [&](const std::string& history, int ranks) {
        EngineRun run = run_engine(config({"parallel.zero=1"}),
                                   {.ranks = ranks, .steps = 3, .begin = [&](EngineRank& rank) {
                                        restore(rank, stopped.files);
                                        rank.engine.restore_fp8_history(history, "it");
                                    }});
        run.losses.insert(run.losses.begin(), whole.losses.begin(), whole.losses.begin() + 3);
        run.norms.insert(run.norms.begin(), whole.norms.begin(), whole.norms.begin() + 3);
        return difference(whole, run);
    };
    const bool is_delayed = std::string(std::get<1>(GetParam())) == "delayed";
    EXPECT_EQ(stopped.history.empty(), !is_delayed);
    for (const int ranks : {1, 3})
        EXPECT_EQ(resumed(stopped.history, ranks), "") << ranks;
    // The mutant forgets the history.
    EXPECT_EQ(resumed("", 1).empty(), !is_delayed);
}

INSTANTIATE_TEST_SUITE_P(Runs, Fp8Engine,
                         testing::Combine(testing::Values("gpt/tiny.yaml", "llama/tiny.yaml"),
                                          testing::Values("current", "delayed")),
                         [](const auto& one) {
                             const std::string file = std::get<0>(one.param);
                             return file.substr(0, file.find('/')) + "_" + std::get<1>(one.param);
                         });

TEST(Fp8Scales, EachWayIsAnotherRun) {
    const EngineRun none = run_engine(fp8_config("gpt/tiny.yaml", "none"), {.steps = steps}),
                    current = run_engine(fp8_config("gpt/tiny.yaml", "current"), {.steps = steps}),
                    delayed = run_engine(fp8_config("gpt/tiny.yaml", "delayed"), {.steps = steps});
    EXPECT_NE(difference(none, current), "");
    EXPECT_NE(difference(current, delayed), "");
    EXPECT_EQ(current.losses[0], delayed.losses[0])
        << "the first step of delayed has current scales";
    for (size_t i = 0; i < none.losses.size(); ++i)
        for (const EngineRun* run : {&current, &delayed})
            EXPECT_NEAR(run->losses[i] / none.losses[i], 1.0, 2e-2) << i;
}

// The mutant: a rank that keeps to its own maxima, as if nothing came from the others.
void expect_deaf_ranks_are_seen(bool on_device) {
    const RunConfig config = fp8_config("gpt/tiny.yaml", "delayed");
    const EngineRun one = run_engine(config, {.steps = steps});
    EXPECT_EQ(
        difference(one, run_engine(config, {.ranks = 2, .steps = steps, .on_device = on_device})),
        "");
    const auto deaf = [](parallel::Communicator& sound) {
        return AlteredGroup::world(
            sound, [](const std::string& label, const std::vector<parallel::Bytes>& received) {
                if (!label.starts_with("largest of 8-bit tensors")) return;
                for (const parallel::Bytes& piece : received)
                    std::fill(piece.begin(), piece.end(), std::byte{});
            });
    };
    bool is_seen = false;
    try {
        is_seen =
            !difference(
                 one,
                 run_engine(config,
                            {.ranks = 2, .steps = steps, .tamper = deaf, .on_device = on_device}))
                 .empty();
    } catch (const Error&) {
        is_seen = true;  // the ranks found that their weights differ
    }
    EXPECT_TRUE(is_seen);
}

TEST(Fp8Scales, MaximaAreThoseOfAllRanks) {
    expect_deaf_ranks_are_seen(/*on_device=*/false);
}

/// What comes out of it goes into 8 bits.
void break_a_norm(EngineRank& rank) {
    const auto all = rank.model->parameters().all();
    const auto norm = std::ranges::find_if(all, [](const core::Parameter* parameter) {
        return parameter->name() == "blocks.1.mlp_norm.weight";
    });
    CHECK(norm != all.end(), "no such norm");
    (*norm)->master().data<float>()[0] = std::numeric_limits<float>::infinity();
    rank.engine.weights_changed();
}

TEST(Fp8Scales, WhatIsNotFiniteSkipsTheStepAndIsNotRemembered) {
    run_engine(fp8_config("gpt/tiny.yaml", "delayed"),
               {.ranks = 2, .steps = 1, .after_step = [](EngineRank& rank) {
                    const std::string before = rank.engine.fp8_history();
                    break_a_norm(rank);
                    const int64_t updates = rank.engine.update_count();
                    parallel::StepScalars scalars(rank.plan().slots, rank.session.world());
                    rank.engine.run_micro_batches(
                        rank.model->phases().front(), rank.plan(), rank.step,
                        [&](int64_t slot) { return rank.batch(slot); }, scalars);
                    scalars.reduce(rank.session.world());
                    const StepMeans means = rank.engine.means(scalars);
                    EXPECT_FALSE(means.fp8_is_finite);
                    EXPECT_FALSE(means.is_finite());
                    rank.engine.update(means, 1e-3);
                    EXPECT_EQ(rank.engine.update_count(), updates);
                    EXPECT_EQ(rank.engine.fp8_history(), before);
                }});
}

// --- decided on the device ----------------------------------------------------------------------

LateRun train_late(const RunConfig& config, int late_steps, bool on_device, size_t ahead,
                   const BeforeEnd& before_end = {}) {
    return run_late(
        config,
        {.steps = late_steps, .on_device = on_device, .ahead = ahead, .before_end = before_end});
}

// More steps than the history has.
TEST(Fp8Outcomes, HaveTheBitsAndTheHistoryOfWhatTheHostDecides) {
    for (const char* file : {"gpt/tiny.yaml", "llama/tiny.yaml"}) {
        const RunConfig config = fp8_config(file, "delayed");
        const LateRun host = train_late(config, 19, false, 0);
        EXPECT_TRUE(host.fp8_history.find("\nsteps 16\n") != std::string::npos);
        for (const size_t ahead : {0u, 1u}) {
            const LateRun device = train_late(config, 19, true, ahead);
            EXPECT_EQ(difference(host.run, device.run), "") << file << ' ' << ahead;
            EXPECT_EQ(device.fp8_history, host.fp8_history);
            EXPECT_EQ(device.updates, 19);
        }
        EXPECT_NE(train_late(config, 18, true, 1).fp8_history, host.fp8_history);
    }
}

TEST(Fp8Outcomes, StepsThatAreNotFiniteAreNotRemembered) {
    const RunConfig config = fp8_config("gpt/tiny.yaml", "delayed");
    for (const std::set<int>& bad : {std::set{0}, std::set{2}, std::set{1, 2}, std::set{5}}) {
        const LateRun host = train_late(config, 6, false, 0, spoiling(bad)),
                      device = train_late(config, 6, true, 1, spoiling(bad));
        EXPECT_EQ(difference(host.run, device.run), "");
        EXPECT_EQ(device.fp8_history, host.fp8_history);
        EXPECT_EQ(device.updates, 6 - static_cast<int64_t>(bad.size()));
        EXPECT_TRUE(device.fp8_history.find(fmt::format("\nsteps {}\n", device.updates)) !=
                    std::string::npos);
    }
    // The mutant remembers a step that was skipped: what it saw is what a run without a fault saw.
    const std::string remembered = train_late(config, 3, true, 1).fp8_history;
    const LateRun sound = train_late(config, 6, true, 1, spoiling({2})),
                  mutant = train_late(config, 6, true, 1, [&](EngineRank&rank, int step) {
                      spoiling({2})(rank, step);
                      if (step == 3) rank.engine.restore_fp8_history(remembered, "it");
                  });
    EXPECT_EQ(sound.run.losses[3], mutant.run.losses[3]);
    EXPECT_NE(difference(sound.run, mutant.run), "");
}

TEST(Fp8Outcomes, MaximaAreThoseOfAllRanks) {
    expect_deaf_ranks_are_seen(/*on_device=*/true);
}

TEST(Fp8Outcomes, OfSeveralRanksHaveTheBitsAndTheHistoryOfWhatTheHostDecides) {
    struct Ranks {
        int count;
        std::vector<std::string> layout;
    };
    for (const auto& [ranks, layout] :
         {Ranks{3, {"parallel.zero=1"}}, Ranks{2, {"parallel.zero=3"}},
          Ranks{2, {"parallel.pipeline=2"}}, Ranks{2, {"parallel.tensor=2"}},
          Ranks{2, {"parallel.context=2", "data.sequence_length=32"}}}) {
        const RunConfig config = fp8_config("gpt/tiny.yaml", "delayed", layout);
        // The third step has a gradient that is not finite.
        const auto trained = [&](bool on_device) {
            std::string history;
            EngineRun run = run_engine(
                config,
                {.ranks = ranks,
                 .steps = 6,
                 .after_step =
                     [&](EngineRank& rank) {
                         const std::string mine = rank.engine.fp8_history();
                         if (rank.session.speaks()) history = mine;
                     },
                 .on_device = on_device,
                 .before_end =
                     [](EngineRank& rank) {
                         if (rank.step.step == 2)
                             for (const core::StateTensor& gradient : rank.engine.gradients())
                                 std::fill_n(static_cast<float*>(gradient.data),
                                             gradient.shard.elements(), std::nanf(""));
                     }});
            return std::pair(std::move(run), std::move(history));
        };
        const auto [host, host_history] = trained(false);
        const auto [device, history] = trained(true);
        EXPECT_EQ(difference(host, device), "") << layout.back();
        EXPECT_EQ(history, host_history) << layout.back();
        EXPECT_NE(history.find("\nsteps 5\n"), std::string::npos) << layout.back();
    }
}

TEST(Fp8Outcomes, SayLateThatWhatWentIntoEightBitsIsNotFinite) {
    parallel::SelfCommunicator world;
    EngineRank rank(fp8_config("gpt/tiny.yaml", "delayed"), world);
    rank.engine.initialize(rank.step.seed);
    rank.engine.decide_on_device();
    ASSERT_TRUE(rank.engine.decides_on_device());
    std::vector<plinth::test::QueueCall> calls;
    rank.session.stream().set_queue(std::make_unique<plinth::test::LateQueue>(calls));
    for (const bool is_bad : {false, true}) {
        if (is_bad) break_a_norm(rank);
        parallel::StepScalars scalars(0, world);
        rank.engine.run_micro_batches(
            rank.model->phases().front(), rank.plan(), rank.step,
            [&](int64_t slot) { return rank.batch(slot); }, scalars);
        rank.engine.end_step(scalars, 1e-3);
        ++rank.step.step;
    }
    EXPECT_TRUE(rank.engine.take_means(/*waits=*/true)->fp8_is_finite);
    const std::string before = rank.engine.fp8_history();
    EXPECT_TRUE(before.find("\nsteps 1\n") != std::string::npos) << before;
    const std::optional<StepMeans> means = rank.engine.take_means(/*waits=*/true);
    ASSERT_TRUE(means);
    EXPECT_FALSE(means->fp8_is_finite);
    EXPECT_FALSE(means->is_finite());
    EXPECT_EQ(rank.engine.update_count(), 1);
}

TEST(Fp8Config, WhatCannotBeIsRefusedByName) {
    expect_error(
        ErrorKind::config,
        [] {
            tiny_config("gpt/tiny.yaml", {"train.fp8=current", "train.dtype=fp32"});
        },
        "train.fp8", "train.dtype=bf16");
    expect_error(
        ErrorKind::config,
        [] {
            tiny_config("gpt/tiny.yaml", {"train.fp8=yes", "train.dtype=bf16"});
        },
        "train.fp8");
    const auto problem = [](const std::vector<std::string>& more, int64_t ranks) {
        std::vector<std::string> words{"train.fp8=current", "train.dtype=bf16"};
        words.insert(words.end(), more.begin(), more.end());
        const auto found = validate_world(tiny_config("gpt/tiny.yaml", words), ranks);
        return found ? found->key + ": " + found->message : std::string();
    };
    EXPECT_EQ(problem({}, 1), "");
    const auto names = [&](const std::vector<std::string>& more, int64_t ranks, const char* what) {
        const std::string text = problem(more, ranks);
        EXPECT_TRUE(text.starts_with("train.fp8: ")) << text;
        EXPECT_NE(text.find(what), std::string::npos) << text;
    };
    names({"model.width=24"}, 1, "model.width is 24");
    names({"model.ffn_width=40"}, 1, "model.ffn_width is 40");
    names({"model.ffn_width=48", "parallel.tensor=2"}, 2,
          "model.ffn_width / parallel.tensor 2 is 24");
    names({"parallel.tensor=4"}, 4, "model.head_width / parallel.tensor 4 is");
    names({"data.sequence_length=24"}, 1, "train.micro_batch x data.sequence_length is 24");
    names({"parallel.context=2"}, 2, "data.sequence_length / parallel.context 2 is 8");
}

}  // namespace
}  // namespace plinth::launch::test
