// SPDX-License-Identifier: Apache-2.0
// What one layout saved goes on in another. Over all ordered pairs of the layouts below:
//   unit_launch --gtest_also_run_disabled_tests --gtest_filter='LayoutPairs.*'
#include <gtest/gtest.h>

#include "launch/layouts.h"
#include "tests/support/memory_files.h"
#include "tests/unit/launch/engine_checkpoints.h"

namespace plinth::launch::test {
namespace {

struct LayoutKeys {
    int64_t data = 1, tensor = 1, pipeline = 1, context = 1, zero = 0;
    PipelineSchedule schedule = PipelineSchedule::one_f_one_b;

    int ranks() const { return static_cast<int>(data * tensor * pipeline * context); }
    /// Layouts of one class give equal bits.
    std::pair<int64_t, int64_t> bits_class() const { return {tensor, context}; }
    std::string name() const {
        return fmt::format("data {} tensor {} pipeline {} context {} zero {}", data, tensor,
                           pipeline, context, zero);
    }
    RunConfig over(const char* file) const {
        RunConfig config =
            tiny_config(file, {"data.sequence_length=32", "model.layers=4", "model.kv_heads=4",
                               "train.global_batch=4", "train.lanes=4"});
        config.parallel = with_schedule(config.parallel, pipeline, schedule);
        config.parallel.data = data;
        config.parallel.tensor = tensor;
        config.parallel.context = context;
        config.parallel.zero = zero;
        const auto problem = validate_world(config, ranks());
        CHECK(!problem, "{}: {}: {}", name(), problem->key, problem->message);
        return config;
    }
};

const std::vector<LayoutKeys> layouts = {
    {},
    {.data = 2},
    {.data = 3, .zero = 1},
    {.data = 4, .zero = 2},
    {.data = 2, .zero = 3},
    {.pipeline = 2},
    {.data = 2, .pipeline = 2, .zero = 1, .schedule = PipelineSchedule::zero_bubble},
    {.data = 2, .pipeline = 2, .zero = 2, .schedule = PipelineSchedule::gpipe},
    {.pipeline = 2, .schedule = PipelineSchedule::interleaved},
    {.tensor = 2},
    {.data = 2, .tensor = 2, .zero = 3},
    {.tensor = 2, .pipeline = 2},
    {.tensor = 4},
    {.context = 2},
    {.data = 3, .context = 2, .zero = 1},
    {.pipeline = 2, .context = 2},
    {.tensor = 2, .context = 2},
    {.data = 2, .tensor = 2, .context = 2, .zero = 2},
};

/// Rounding of tensor and context parallel sums over ten steps.
constexpr double tolerance = 1e-5;

/// One after the other: losses and norms.
double furthest(const EngineRun& a, const EngineRun& b) {
    double worst = 0.0;
    for (size_t i = 0; i < a.losses.size(); ++i)
        worst = std::max({worst, std::abs(a.losses[i] / b.losses[i] - 1.0),
                          std::abs(a.norms[i] / b.norms[i] - 1.0)});
    return worst;
}

/// Saves after two steps in `writer` and goes on for ten in each of the readers: what is restored
/// has the bits that were saved; further steps have equal bits within a class, and agree with those
/// of the writer. Gives the largest distance from those.
double save_and_go_on(const char* file, const LayoutKeys& writer,
                      const std::vector<LayoutKeys>& readers) {
    plinth::test::MemoryFiles files;
    const EngineRun saved =
        run_engine(writer.over(file),
                   {.ranks = writer.ranks(), .steps = 2, .after_step = [&](EngineRank& rank) {
                        if (rank.step.step == 2) save(rank, files);
                    }});
    const auto go_on = [&](const LayoutKeys& reader, int steps) {
        return run_engine(reader.over(file),
                          {.ranks = reader.ranks(), .steps = steps, .begin = [&](EngineRank& rank) {
                               restore(rank, files);
                           }});
    };
    const EngineRun own = go_on(writer, 10);
    EXPECT_NE(own.losses.front(), own.losses.back());
    double worst = 0.0;
    std::map<std::pair<int64_t, int64_t>, EngineRun> of_class{{writer.bits_class(), own}};
    for (const LayoutKeys& reader : readers) {
        SCOPED_TRACE(fmt::format("{}: {}, then {}", file, writer.name(), reader.name()));
        EXPECT_EQ(go_on(reader, 0).state, saved.state);
        const EngineRun on = go_on(reader, 10);
        const EngineRun& expected = of_class.try_emplace(reader.bits_class(), on).first->second;
        EXPECT_EQ(difference(on, expected), "");
        const double distance = furthest(on, own);
        EXPECT_LT(distance, tolerance);
        worst = std::max(worst, distance);
    }
    return worst;
}

TEST(LayoutPairs, EachGoesOnInTheNextAndInOneFurtherOff) {
    for (size_t from = 0; from < layouts.size(); ++from)
        save_and_go_on(
            "gpt/tiny.yaml", layouts[from],
            {layouts[(from + 1) % layouts.size()], layouts[(from + 6) % layouts.size()]});
}

TEST(LayoutPairs, AnotherStateIsSeen) {
    plinth::test::MemoryFiles files;
    const LayoutKeys one, two{.context = 2};
    const EngineRun saved =
        run_engine(one.over("gpt/tiny.yaml"), {.steps = 2, .after_step = [&](EngineRank& rank) {
                                                   if (rank.step.step == 1) save(rank, files);
                                               }});
    const EngineRun loaded = run_engine(
        two.over("gpt/tiny.yaml"),
        {.ranks = 2, .steps = 0, .begin = [&](EngineRank& rank) { restore(rank, files); }});
    EXPECT_NE(loaded.state, saved.state) << "the mutant: a step before";
}

TEST(LayoutPairs, DISABLED_AllOrderedPairs) {
    for (const char* file : {"gpt/tiny.yaml", "llama/tiny.yaml"}) {
        double worst = 0.0;
        for (const LayoutKeys& writer : layouts)
            worst = std::max(worst, save_and_go_on(file, writer, layouts));
        fmt::print("{}: {} pairs, losses and norms within {:.1e}\n", file,
                   layouts.size() * layouts.size(), worst);
    }
}

}  // namespace
}  // namespace plinth::launch::test
