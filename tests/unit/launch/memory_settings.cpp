// SPDX-License-Identifier: Apache-2.0
// Settings that are named where memory is short: each, written as it is named, must be taken by the
// configuration and fit by the plan.
#include "launch/memory_settings.h"

#include <gtest/gtest.h>

#include <sstream>

#include "core/io/file.h"
#include "launch/config/load.h"
#include "launch/plan.h"

namespace plinth::launch {
namespace {

constexpr int64_t gib = int64_t{1} << 30, mib = int64_t{1} << 20;

RunConfig config_of(const std::string& file, const std::vector<std::string>& words) {
    return load<RunConfig>(core::io::posix(), std::string(PLINTH_SOURCE_DIR) + "/configs/" + file,
                           words);
}

/// A run, the memory of its card, and what is said of it.
struct Case {
    std::string file;
    std::vector<std::string> words;
    int64_t ranks = 1;
    int64_t limit = 0;
};

std::vector<MemorySetting> settings_of(const Case& run) {
    return settings_that_need_less(config_of(run.file, run.words), run.ranks, run.limit);
}

/// What is wrong with a setting, found by loading the run's file with the words that it names:
/// empty where they are taken and do what is said of them.
std::string fault_of(const Case& run, const MemorySetting& setting) {
    std::vector<std::string> words = run.words;
    std::istringstream more(setting.words);
    for (std::string word; more >> word;)
        words.push_back(word);
    const RunConfig applied = config_of(run.file, words);
    if (const auto problem = validate_world(applied, setting.ranks))
        return fmt::format("{} is refused: {} {}", setting.words, problem->key, problem->message);
    int64_t peak = 0;
    for (int stage = 0; stage < static_cast<int>(applied.parallel.pipeline); ++stage) {
        const MemoryPlan plan = memory_plan(applied, setting.ranks, stage);
        const bool is_on_gpu = applied.run.device == DeviceKind::cuda;
        peak = std::max(peak, is_on_gpu ? plan.computing() : plan.total());
    }
    if (peak != setting.peak)
        return fmt::format("{} needs {}, not {}", setting.words, peak, setting.peak);
    if ((peak <= run.limit) != setting.fits)
        return fmt::format("{} {} {} bytes", setting.words,
                           setting.fits ? "does not fit into" : "fits into", run.limit);
    return "";
}

const Case cases[] = {
    {"gpt/gpt2_124m.yaml",
     {"run.device=cuda", "train.micro_batch=32", "train.global_batch=512", "train.lanes=1"},
     1,
     7 * gib},
    {"gpt/gpt2_124m.yaml",
     {"run.device=cuda", "train.micro_batch=32", "train.global_batch=512", "train.recompute=none"},
     1,
     12 * gib},
    {"llama/llama_8b.yaml",
     {"run.device=cuda", "train.global_batch=8", "train.micro_batch=1"},
     1,
     78 * gib},
    {"llama/llama_8b.yaml",
     {"run.device=cuda", "train.global_batch=64", "train.micro_batch=2"},
     4,
     78 * gib},
    {"llama/llama_8b.yaml",
     {"run.device=cuda", "train.global_batch=64", "train.micro_batch=2"},
     4,
     40 * gib},
    {"llama/llama_8b.yaml",
     {"run.device=cuda", "train.global_batch=64", "train.micro_batch=4", "parallel.pipeline=2",
      "parallel.tensor=2"},
     8,
     30 * gib},
    {"gpt/tiny.yaml", {"run.device=cpu", "train.micro_batch=8"}, 1, 6 * mib},
    {"gpt/tiny.yaml", {"run.device=cpu", "train.micro_batch=8"}, 2, 5 * mib},
};

TEST(MemorySettings, WhatIsNamedIsTakenAndFitsByThePlan) {
    int fit = 0, too_large = 0;
    for (const Case& run : cases) {
        EXPECT_GT(peak_by_plan(config_of(run.file, run.words), run.ranks), run.limit);
        const std::vector<MemorySetting> settings = settings_of(run);
        EXPECT_FALSE(settings.empty()) << run.file << " on " << run.ranks;
        for (const MemorySetting& setting : settings) {
            EXPECT_EQ(fault_of(run, setting), "") << run.file << " on " << run.ranks;
            ++(setting.fits ? fit : too_large);
        }
    }
    EXPECT_GE(fit, 10);
    EXPECT_GE(too_large, 5);
}

TEST(MemorySettings, ASettingThatDoesNotFitIsSeen) {
    for (const Case& run : cases)
        for (const MemorySetting& sound : settings_of(run)) {
            MemorySetting other = sound;
            other.fits = !sound.fits;
            EXPECT_NE(fault_of(run, other), "") << sound.words;
            other = sound;
            other.words = "";  // as it is
            other.ranks = run.ranks;
            EXPECT_NE(fault_of(run, other), "") << sound.words;
        }
}

/// Of those that differ in that key, and in no other but `lanes`.
const MemorySetting* alone(const std::vector<MemorySetting>& settings, const std::string& key) {
    for (const MemorySetting& setting : settings)
        if (setting.words.starts_with(key + "=") &&
            (setting.words.find(' ') == std::string::npos ||
             setting.words.find(" train.lanes=") != std::string::npos))
            return &setting;
    return nullptr;
}

TEST(MemorySettings, TheMildestValueThatFitsIsNamed) {
    const Case& run = cases[0];
    const auto settings = settings_of(run);
    const MemorySetting* micro_batch = alone(settings, "train.micro_batch");
    ASSERT_TRUE(micro_batch);
    EXPECT_TRUE(micro_batch->fits);
    RunConfig larger = micro_batch->config;
    larger.train.micro_batch *= 2;
    EXPECT_GT(peak_by_plan(larger, 1), run.limit);
    // Of a key that does not help enough, the strongest.
    Case tight = run;
    RunConfig smallest = micro_batch->config;
    smallest.train.micro_batch = 1;
    tight.limit = peak_by_plan(smallest, 1) - 1;
    const auto all = settings_of(tight);
    micro_batch = alone(all, "train.micro_batch");
    ASSERT_TRUE(micro_batch);
    EXPECT_FALSE(micro_batch->fits);
    EXPECT_EQ(micro_batch->config.train.micro_batch, 1);
}

TEST(MemorySettings, RecomputePoliciesAreTriedFromTheMildestOn) {
    for (const char* file : {"gpt/gpt2_124m.yaml", "llama/llama_1b.yaml"}) {
        Case run{file, {"run.device=cuda", "train.micro_batch=8", "train.recompute=none"}, 1, 0};
        int64_t milder = peak_by_plan(config_of(run.file, run.words), 1);
        for (const char* policy : {"norms", "selective", "full"}) {
            const std::string word = fmt::format("train.recompute={}", policy);
            run.limit = peak_by_plan(
                config_of(run.file, {"run.device=cuda", "train.micro_batch=8", word}), 1);
            EXPECT_LT(run.limit, milder) << file << " " << policy;
            milder = run.limit;
            const auto settings = settings_of(run);
            const MemorySetting* named = alone(settings, "train.recompute");
            ASSERT_TRUE(named) << file << " " << policy;
            EXPECT_EQ(named->words, word);
            EXPECT_TRUE(named->fits);
        }
    }
}

TEST(MemorySettings, WhereNoKeyIsEnoughSeveralAreNamedOfWhichEachIsNeeded) {
    const Case run{"llama/llama_8b.yaml",
                   {"run.device=cuda", "train.global_batch=8", "train.micro_batch=8"},
                   1,
                   70 * gib};
    const auto settings = settings_of(run);
    const MemorySetting* together = nullptr;
    int alone_and_enough = 0;
    for (const MemorySetting& setting : settings) {
        if (setting.ranks != run.ranks) continue;
        alone_and_enough += setting.fits;
        if (setting.fits) together = &setting;
    }
    ASSERT_TRUE(together) << text_of(settings, run.ranks);
    EXPECT_EQ(alone_and_enough, 1) << text_of(settings, run.ranks);
    EXPECT_NE(together->words.find(' '), std::string::npos) << together->words;
    // Each of its words is needed, but lanes, which follow the micro-batch.
    std::istringstream words(together->words);
    std::vector<std::string> list;
    for (std::string word; words >> word;)
        list.push_back(word);
    for (const std::string& left_out : list) {
        if (left_out.starts_with("train.recompute=") &&
            together->words.find("offload_activations") != std::string::npos)
            continue;  // which needs it
        std::vector<std::string> fewer = run.words;
        for (const std::string& word : list)
            if (word != left_out) fewer.push_back(word);
        EXPECT_GT(peak_by_plan(config_of(run.file, fewer), run.ranks), run.limit) << left_out;
    }
}

TEST(MemorySettings, TheTextSaysWhichFitAndWhichDoNot) {
    std::vector<MemorySetting> settings(3);
    settings[0] = {.words = "train.micro_batch=4", .peak = 3 * gib, .fits = true};
    settings[1] = {.words = "optimizer.moments=bf16", .peak = 9 * gib};
    settings[2] = {
        .words = "parallel.zero=1", .ranks = 2, .peak = gib, .on_host = 2 * gib, .fits = true};
    EXPECT_EQ(text_of(settings, 1),
              "it fits by the plan with train.micro_batch=4 (3.000 GiB), or parallel.zero=1 on 2 "
              "ranks (1.000 GiB and 2.000 GiB of the host); not enough alone: "
              "optimizer.moments=bf16 (9.000 GiB)");
    EXPECT_EQ(text_of({{.words = "", .ranks = 4, .peak = gib, .fits = true}}, 2),
              "it fits by the plan with the same on 4 ranks (1.000 GiB)");
    EXPECT_EQ(text_of({}, 1), "no setting that was tried makes it fit");
}

TEST(MemorySettings, RanksOfAnotherAxisAreNamedWhereTheyAreEnough) {
    // Activations of one long sequence, which no more data ranks divide.
    const Case run{"llama/llama_8b.yaml",
                   {"run.device=cuda", "train.global_batch=8", "train.micro_batch=1",
                    "data.sequence_length=131072", "model.max_positions=131072", "parallel.zero=3",
                    "train.lanes=8"},
                   8,
                   60 * gib};
    bool has_context = false;
    for (const MemorySetting& setting : settings_of(run)) {
        EXPECT_EQ(fault_of(run, setting), "");
        has_context = has_context || (setting.fits && setting.ranks > run.ranks &&
                                      setting.words.starts_with("parallel.context="));
    }
    EXPECT_TRUE(has_context) << text_of(settings_of(run), run.ranks);
}

TEST(MemorySettings, ASearchThatIsEndedSaysWhatItHasFound) {
    const Case& run = cases[3];
    const RunConfig config = config_of(run.file, run.words);
    int asked = 0;
    const auto all = settings_that_need_less(config, run.ranks, run.limit, [&] {
        ++asked;
        return true;
    });
    EXPECT_GT(asked, 4 * static_cast<int>(all.size())) << "a plan of four ranks goes on unasked";
    for (const int most : {0, 1, asked / 4, asked / 2, asked - 1}) {
        int left = most;
        const auto part =
            settings_that_need_less(config, run.ranks, run.limit, [&] { return left-- > 0; });
        ASSERT_LE(part.size(), all.size());
        for (size_t i = 0; i < part.size(); ++i)
            EXPECT_EQ(part[i].words, all[i].words);
        left = most;
        EXPECT_NE(memory_settings_text(config, run.ranks, run.limit, [&] { return left-- > 0; })
                      .find("not all was tried"),
                  std::string::npos);
    }
    EXPECT_EQ(memory_settings_text(config, run.ranks, run.limit, [] { return true; }),
              text_of(all, run.ranks));
}

TEST(MemorySettings, AdviceCountsWhatTheRunNeedsBesideItsPlan) {
    const RunConfig config = config_of(cases[0].file, cases[0].words);
    const int64_t planned = peak_by_plan(config, 1);
    const auto bytes = [](int64_t count) { return static_cast<size_t>(count); };
    // 1 GiB over the plan, and 512 MiB are missing: what is named has to need 512 MiB less.
    const MemoryShortage shortage{
        .asked = bytes(2 * gib), .held = bytes(planned - gib), .available = bytes(3 * gib / 2)};
    const auto expected = settings_that_need_less(config, 1, planned - gib / 2);
    EXPECT_NE(memory_advice(config, 1, shortage).find(text_of(expected, 1)), std::string::npos)
        << memory_advice(config, 1, shortage);
    // A card that another process fills, early in the run: the plan's own need is no measure.
    const MemoryShortage early{
        .asked = bytes(gib), .held = bytes(2 * gib), .available = bytes(gib / 2)};
    EXPECT_NE(memory_advice(config, 1, early)
                  .find(text_of(settings_that_need_less(config, 1, 5 * gib / 2), 1)),
              std::string::npos);
}

}  // namespace
}  // namespace plinth::launch
