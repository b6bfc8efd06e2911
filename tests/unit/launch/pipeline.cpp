// SPDX-License-Identifier: Apache-2.0
// Pipeline depth, schedule, chunks and data ranks do not change one bit of losses, norms and
// weights.
#include <gtest/gtest.h>

#include "core/inference/decoder.h"
#include "launch/plan.h"
#include "parallel/pipeline_parallel/relay.h"
#include "tests/support/engine_training.h"

namespace plinth::test {
namespace {

using core::models::Parts;
using launch::RunConfig;

struct Layout {
    int stages = 1;
    int data = 1;
    const char* schedule = "1f1b";
    int chunks = 1;
    const char* stage_layers = "[]";
};

void PrintTo(const Layout& layout, std::ostream* out) {
    *out << fmt::format("{} stages, data {}, {} x {}, layers {}", layout.stages, layout.data,
                        layout.schedule, layout.chunks, layout.stage_layers);
}

/// 7 micro-batches in 4 lanes: uneven lanes, two rounds or more; several buckets a chunk.
RunConfig configured(const std::string& file, std::vector<std::string> overrides,
                     const Layout& layout = {}) {
    for (const std::string& word :
         {std::string("train.global_batch=7"), std::string("train.micro_batch=1"),
          std::string("train.lanes=4"), std::string("data.sequence_length=12"),
          std::string("model.layers=4"), std::string("model.width=16"),
          std::string("model.heads=2"), std::string("model.vocab_size=67"),
          std::string("optimizer.clip=0.5"), std::string("parallel.bucket_bytes=4096"),
          fmt::format("parallel.pipeline={}", layout.stages),
          fmt::format("parallel.data={}", layout.data),
          fmt::format("parallel.schedule={}", layout.schedule),
          fmt::format("parallel.virtual_stages={}", layout.chunks),
          fmt::format("parallel.stage_layers={}", layout.stage_layers)})
        overrides.insert(overrides.begin(), word);
    RunConfig config = engine_config(file, overrides);
    const auto problem = launch::validate_world(config, layout.stages * layout.data);
    CHECK(!problem, "{}: {}", problem->key, problem->message);
    return config;
}

void expect_equal(const EngineOutcome& expected, const EngineOutcome& actual,
                  const Layout& layout) {
    EXPECT_EQ(actual.losses, expected.losses) << testing::PrintToString(layout);
    EXPECT_EQ(actual.norms, expected.norms) << testing::PrintToString(layout);
    EXPECT_EQ(actual.weights == expected.weights, true) << testing::PrintToString(layout);
}

const std::vector<Layout> layouts = {{2},
                                     {3},
                                     {4},
                                     {2, 1, "gpipe"},
                                     {4, 1, "gpipe"},
                                     {2, 1, "interleaved", 2},
                                     {2, 1, "zero_bubble"},
                                     {3, 1, "zero_bubble"},
                                     {4, 1, "zero_bubble"},
                                     {2, 2},
                                     {2, 2, "gpipe"},
                                     {2, 3, "interleaved", 2},
                                     {2, 3, "zero_bubble"},
                                     {3, 2, "zero_bubble"},
                                     {2, 4, "interleaved", 2},
                                     {3, 2, "interleaved"},
                                     {3, 1, "1f1b", 1, "[0, 4, 0]"},
                                     {2, 2, "zero_bubble", 1, "[1, 3]"}};

void over_layouts(const std::string& file, const std::vector<std::string>& overrides,
                  const std::vector<Layout>& which) {
    RunConfig alone = configured(file, overrides);
    alone.train.recompute = launch::Recompute::none;
    const EngineOutcome one = train_engine(alone);
    ASSERT_EQ(one.losses.size(), 3u);
    EXPECT_GT(one.norms[0], 0.5) << "the case must clip";
    for (const Layout& layout : which)
        expect_equal(one, train_engine(configured(file, overrides, layout)), layout);
}

TEST(Pipeline, TiedFp32) {
    over_layouts("gpt/tiny.yaml", {"train.recompute=none"}, layouts);
}

TEST(Pipeline, UntiedBf16Dropout) {
    over_layouts(
        "llama/tiny.yaml",
        {"train.dtype=bf16", "model.dropout=0.1", "model.kv_heads=1", "train.recompute=selective"},
        layouts);
}

TEST(Pipeline, TiedBf16DropoutFullRecompute) {
    over_layouts("gpt/tiny.yaml", {"train.dtype=bf16", "model.dropout=0.1", "train.recompute=full"},
                 {{2}, {3, 1, "zero_bubble"}, {2, 2, "interleaved", 2}, {2, 2, "gpipe"}});
}

TEST(Pipeline, TiedBf16DropoutHiddenLayersAgain) {
    over_layouts("gpt/tiny.yaml",
                 {"train.dtype=bf16", "model.dropout=0.1", "train.recompute=selective"},
                 {{2}, {3, 1, "zero_bubble"}, {2, 2, "interleaved", 2}, {2, 2, "gpipe"}});
}

TEST(Pipeline, UntiedFp32FullRecomputeNormedHeadsAndEmbedding) {
    over_layouts("bloom/tiny.yaml",
                 {"train.recompute=full", "model.tied_head=false", "model.qk_norm=true"},
                 {{3}, {4, 1, "zero_bubble"}, {2, 1, "interleaved", 2}});
}

TEST(Pipeline, EightStagesAndFourChunksOnOne) {
    const std::vector<std::string> overrides = {"model.layers=8", "train.dtype=bf16",
                                                "model.dropout=0.1"};
    for (const char* file : {"gpt/tiny.yaml", "llama/tiny.yaml"})
        over_layouts(file, overrides,
                     {{8},
                      {8, 1, "gpipe"},
                      {8, 1, "zero_bubble"},
                      {4, 1, "interleaved", 2},
                      {4, 2, "interleaved", 2},
                      {2, 1, "interleaved", 3},
                      {2, 2, "interleaved", 4}});
}

TEST(Pipeline, FewerMicroBatchesThanStagesAndBf16OnTheWire) {
    const std::vector<std::string> overrides = {"train.global_batch=2", "train.lanes=2",
                                                "parallel.wire_dtype=bf16"};
    over_layouts("gpt/tiny.yaml", overrides,
                 {{4}, {4, 2}, {4, 1, "zero_bubble"}, {2, 2, "interleaved", 2}, {3, 2, "gpipe"}});
}

std::vector<int32_t> decoded(const Layout& layout) {
    const RunConfig config = configured("llama/tiny.yaml", {"model.kv_heads=1"}, layout);
    std::vector<int32_t> tokens;
    std::mutex mutex;
    EngineHooks hooks;
    hooks.finish = [&](launch::Session& session, parallel::Groups& groups,
                       core::models::Model& model) {
        const core::Scope scope(session.scope(DType::f32));
        auto& transformer = dynamic_cast<core::models::Transformer&>(model);
        parallel::PipelineRelay relay(transformer, groups);
        const auto all = core::inference::decode(
            transformer, {{1, 2, 3}, {5}}, {.max_tokens = 20, .choice = {.seed = 3}}, {}, &relay);
        std::vector<int32_t> mine = all[0];
        mine.insert(mine.end(), all[1].begin(), all[1].end());
        const std::lock_guard lock(mutex);
        if (tokens.empty()) tokens = mine;
        EXPECT_EQ(mine, tokens) << "every stage gives the same tokens";
    };
    train_engine(config, 1, hooks);
    return tokens;
}

TEST(Pipeline, DecodesThroughTheStages) {
    const std::vector<int32_t> one = decoded({});
    ASSERT_EQ(one.size(), 40u);
    for (const Layout& layout : std::vector<Layout>{{2}, {4}, {2, 1, "interleaved", 2}})
        EXPECT_EQ(decoded(layout), one) << testing::PrintToString(layout);
}

TEST(Pipeline, ThePlanForetellsThePeakOfEachStage) {
    const std::vector<std::string> larger = {"train.micro_batch=8",     "train.global_batch=64",
                                             "train.lanes=2",           "model.width=64",
                                             "data.sequence_length=64", "model.vocab_size=257"};
    for (const Layout& layout : std::vector<Layout>{
             {2}, {4}, {2, 1, "gpipe"}, {2, 1, "interleaved", 2}, {2, 1, "zero_bubble"}, {2, 2}})
        for (const char* recompute : {"none", "norms", "selective", "full"}) {
            auto overrides = larger;
            overrides.push_back(fmt::format("train.recompute={}", recompute));
            const RunConfig config = configured("gpt/tiny.yaml", overrides, layout);
            EngineHooks hooks;
            hooks.finish = [&](launch::Session& session, parallel::Groups& groups,
                               core::models::Model&) {
                const int stage = groups.coordinate(parallel::Axis::pipeline);
                const auto plan = launch::memory_plan(config, layout.stages * layout.data, stage);
                const auto measured = static_cast<double>(session.allocator().use().peak);
                const auto foretold =
                    static_cast<double>(plan.total() - plan.staging);  // nothing is saved
                // MemoryByKind holds each kind to 5 %. Their peaks need not come at once: products
                // of slots and exchanges under way may have ended when activations are the most.
                EXPECT_GE(foretold / measured, 0.95)
                    << testing::PrintToString(layout) << ", " << recompute << ", stage " << stage;
                EXPECT_LE(foretold / measured, 1.09)
                    << testing::PrintToString(layout) << ", " << recompute << ", stage " << stage
                    << ": measured " << measured << ", activations " << plan.activations
                    << ", gradients " << plan.gradients;
            };
            train_engine(config, 1, hooks);
        }
}

TEST(Pipeline, ImpossibleLayoutsAreRefusedByKey) {
    const auto key_of = [](const std::vector<std::string>& overrides) {
        std::vector<std::string> all = {"model.layers=4"};
        all.insert(all.end(), overrides.begin(), overrides.end());
        const RunConfig config = engine_config("gpt/tiny.yaml", all);
        const auto problem = launch::validate_world(config, config.parallel.pipeline);
        return problem ? problem->key : "";
    };
    EXPECT_EQ(key_of({"parallel.pipeline=4"}), "");
    EXPECT_EQ(key_of({"parallel.pipeline=5"}), "parallel.pipeline");
    EXPECT_EQ(key_of({"parallel.pipeline=2", "parallel.virtual_stages=2"}),
              "parallel.virtual_stages");
    EXPECT_EQ(key_of({"parallel.schedule=interleaved", "parallel.virtual_stages=2"}),
              "parallel.virtual_stages");
    EXPECT_EQ(key_of({"parallel.pipeline=3", "parallel.schedule=interleaved",
                      "parallel.virtual_stages=2"}),
              "parallel.virtual_stages");
    EXPECT_EQ(key_of({"parallel.pipeline=2", "parallel.stage_layers=[2, 2]"}), "");
    EXPECT_EQ(key_of({"parallel.pipeline=2", "parallel.stage_layers=[0, 4]"}), "");
    EXPECT_EQ(key_of({"parallel.pipeline=2", "parallel.stage_layers=[1, 2]"}),
              "parallel.stage_layers");
    EXPECT_EQ(key_of({"parallel.pipeline=2", "parallel.stage_layers=[1, 2, 1]"}),
              "parallel.stage_layers");
    EXPECT_EQ(key_of({"parallel.pipeline=3", "parallel.stage_layers=[2, 0, 2]"}),
              "parallel.stage_layers");
}

// ---- mutants: each of these must show ----

EngineOutcome two_stages(const EngineHooks& hooks) {
    return train_engine(configured("gpt/tiny.yaml", {}, {2}), 3, hooks);
}

TEST(PipelineMutant, ForgottenTiedGradient) {
    const EngineOutcome one = train_engine(configured("gpt/tiny.yaml", {}));
    ASSERT_EQ(two_stages({}), one);
    // A head of the last stage's own, with the table's weights at the start: nobody ties it.
    EngineHooks hooks;
    hooks.model = [](const RunConfig& config, std::vector<Parts> parts) {
        auto transformer = launch::transformer_config(config);
        transformer.tied_head = false;
        return std::make_unique<core::models::Transformer>(transformer, std::move(parts));
    };
    hooks.start = [](core::models::Model& model, parallel::Communicator& world) {
        core::Parameter* table = model.parameters().find("embedding.tokens.weight");
        core::Parameter& copy = table ? *table : *model.parameters().find("head.weight");
        const View weights = copy.master().out();
        world.broadcast("table", {static_cast<std::byte*>(weights.data), weights.bytes()}, 0);
        copy.changed();
    };
    const EngineOutcome mutant = two_stages(hooks);
    EXPECT_EQ(mutant.losses[0], one.losses[0]) << "the first step begins with equal weights";
    EXPECT_NE(mutant.norms[0], one.norms[0]);
    EXPECT_NE(mutant.losses[1], one.losses[1]);
}

TEST(PipelineMutant, SlotsAddedInAnotherOrder) {
    EngineHooks hooks;
    hooks.slot = [](int64_t slot) { return 6 - slot; };
    const EngineOutcome one = train_engine(configured("gpt/tiny.yaml", {"train.lanes=1"}));
    const EngineOutcome mutant =
        train_engine(configured("gpt/tiny.yaml", {"train.lanes=1"}, {2}), 3, hooks);
    EXPECT_NE(mutant.weights == one.weights, true);
}

TEST(PipelineMutant, LossScaledByAStage) {
    const EngineOutcome one = train_engine(configured("gpt/tiny.yaml", {}));
    EngineHooks hooks;
    hooks.phase = [](core::models::Phase& phase) {
        for (core::models::Chunk& chunk : phase.chunks)
            if (chunk.loss)
                chunk.loss = [loss = chunk.loss](const core::Batch& batch, const core::Tensor& x) {
                    core::ops::Loss scaled = loss(batch, x);
                    *scaled.cross_entropy.data<double>() *= 1.0 + 0x1p-40;
                    return scaled;
                };
    };
    EXPECT_NE(two_stages(hooks).losses, one.losses);
}

}  // namespace
}  // namespace plinth::test
