// SPDX-License-Identifier: Apache-2.0
#include "launch/plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "core/models/transformer.h"
#include "core/nn/init.h"
#include "launch/build.h"
#include "launch/checkpoint_keeper.h"
#include "launch/config/load.h"
#include "launch/config/model_size.h"
#include "launch/session.h"
#include "parallel/comm/self.h"
#include "parallel/data_parallel/lane_reducer.h"
#include "tests/unit/launch/engine_runs.h"

namespace plinth::launch {
namespace {

/// Tokens 1, 2, 3, ... of one micro-batch.
core::Batch counting_batch(const RunConfig& config, CachingAllocator& allocator) {
    const int64_t rows = config.train.micro_batch, length = config.data.sequence_length;
    std::vector<int32_t> values(static_cast<size_t>(rows * length));
    for (size_t i = 0; i < values.size(); ++i)
        values[i] = static_cast<int32_t>(1 + i % 250);
    std::vector<int64_t> samples(static_cast<size_t>(rows));
    for (size_t i = 0; i < samples.size(); ++i)
        samples[i] = static_cast<int64_t>(i);
    std::vector<int32_t> positions(values.size());
    for (size_t i = 0; i < positions.size(); ++i)
        positions[i] = static_cast<int32_t>(i % static_cast<size_t>(length));
    const Shape shape{rows, length};
    return {.tokens = core::Tensor::of(values, shape, allocator),
            .targets = core::Tensor::of(values, shape, allocator),
            .positions = core::Tensor::of(positions, shape, allocator),
            .document_ids = {},
            .sample_ids = core::Tensor::of(samples, {rows}, allocator)};
}

/// The allocator's peak over one whole training step on one rank: what the plan foretells.
int64_t measured_peak(const RunConfig& config) {
    parallel::SelfCommunicator world;
    Session session(world, 2);
    core::models::Transformer model(transformer_config(config));
    const auto parameters = model.parameters().all();
    parallel::LaneReducer gradients(parameters, world, session.allocator(), session.stream(),
                                    {.bucket_bytes = config.parallel.bucket_bytes});
    auto masters = core::optim::materialize(parameters, session.allocator());
    core::optim::AdamW optimizer(parameters, adamw_config(config), session.allocator());
    checkpoints::Writer writer(core::io::posix(), session.ranks(),
                               {.allocator = &session.allocator()});
    if (saves_beside_training(config.checkpoint)) {
        std::vector<core::StateTensor> state = state_tensors(parameters);
        for (const core::StateTensor& moment : optimizer.state())
            state.push_back(moment);
        writer.reserve(state);
    }
    core::StepState step;
    for (core::Parameter* parameter : parameters) {
        core::nn::initialize(*parameter, 1, session.stream());
        parameter->changed();
    }
    const parallel::LanePlan plan{config.train.global_batch / config.train.micro_batch,
                                  config.train.lanes, 1};
    gradients.begin_step(plan);
    for (int64_t slot = 0; slot < plan.slots; ++slot) {
        core::Tape tape;
        core::Scope::Settings settings = session.scope(dtype_of(config.train.dtype));
        settings.tape = &tape;
        settings.remake = remakes_norms(config.train.recompute);
        settings.remake_hidden = config.train.recompute == Recompute::selective;
        settings.step = &step;
        settings.training = true;
        const core::Scope scope(settings);
        gradients.begin_slot(slot);
        const core::ops::Loss loss = model.loss(counting_batch(config, session.allocator()));
        std::vector<core::Root> roots{
            {loss.sum, core::Tensor::of<float>({1.0f}, {1}, session.allocator())}};
        tape.backward(std::move(roots), {}, [&] { gradients.progress(); });
        gradients.end_slot();
    }
    gradients.finish();
    optimizer.step(gradients.gradients(), {.learning_rate = 1e-3, .gradient_scale = 1.0},
                   session.stream());
    return static_cast<int64_t>(session.allocator().use().peak);
}

void expect_foretold(const std::string& file, std::vector<std::string> overrides) {
    const auto config = load<RunConfig>(
        core::io::posix(), std::string(PLINTH_SOURCE_DIR) + "/configs/" + file, overrides);
    const MemoryPlan plan = memory_plan(config, 1);
    const auto foretold = static_cast<double>(plan.total());
    const auto measured = static_cast<double>(measured_peak(config));
    EXPECT_NEAR(foretold / measured, 1.0, 0.05)
        << file << " " << fmt::format("{}", fmt::join(overrides, " ")) << ": measured " << measured
        << ", weights " << plan.weights << ", gradients " << plan.gradients << ", optimizer "
        << plan.optimizer << ", activations " << plan.activations << ", staging " << plan.staging;
}

TEST(Plan, ForetellsThePeakOfMemory) {
    expect_foretold("gpt/tiny.yaml", {});
    expect_foretold("gpt/tiny.yaml", {"train.dtype=bf16"});
    expect_foretold("gpt/tiny.yaml", {"optimizer.moments=bf16"});
    expect_foretold("gpt/tiny.yaml", {"train.recompute=full", "train.micro_batch=8"});
    for (const char* saves :
         {"checkpoint.async=true", "checkpoint.async=false", "checkpoint.every=0"})
        for (const char* batch : {"train.global_batch=8", "train.global_batch=16"})
            for (const char* lanes : {"train.lanes=1", "train.lanes=8"})
                expect_foretold("gpt/tiny.yaml", {saves, batch, lanes, "train.micro_batch=1"});
    expect_foretold("gpt/small.yaml", {"train.global_batch=2", "train.micro_batch=2"});
    for (const char* recompute :
         {"train.recompute=none", "train.recompute=norms", "train.recompute=selective"})
        for (const char* config : {"gpt/tiny.yaml", "llama/tiny.yaml", "bloom/tiny.yaml"})
            expect_foretold(config, {recompute, "train.global_batch=64", "train.micro_batch=32"});
    expect_foretold("gpt/gpt2_124m.yaml",
                    {"train.global_batch=1", "train.micro_batch=1", "data.sequence_length=64"});
}

/// The fullest rank of a run over thread ranks.
void expect_foretold_in_stage(int zero, int ranks, const std::vector<std::string>& more) {
    std::vector<std::string> overrides{
        "model.width=128",        "model.heads=4",
        "model.layers=6",         "train.global_batch=32",
        "train.micro_batch=4",    "train.lanes=8",
        "checkpoint.async=false", fmt::format("parallel.zero={}", zero)};
    overrides.insert(overrides.end(), more.begin(), more.end());
    const auto config = load<RunConfig>(
        core::io::posix(), std::string(PLINTH_SOURCE_DIR) + "/configs/gpt/tiny.yaml", overrides);
    const test::EngineRun run = test::run_engine(config, {.ranks = ranks, .steps = 2});
    const MemoryPlan plan = memory_plan(config, ranks);
    const auto measured =
        static_cast<double>(*std::max_element(run.peak_memory.begin(), run.peak_memory.end()));
    EXPECT_NEAR(static_cast<double>(plan.total()) / measured, 1.0, 0.05)
        << "zero " << zero << " on " << ranks << " ranks, "
        << fmt::format("{}", fmt::join(more, " ")) << ": measured " << measured << ", weights "
        << plan.weights << ", gradients " << plan.gradients << ", optimizer " << plan.optimizer
        << ", activations " << plan.activations;
    const TrafficPlan traffic = traffic_plan(config, ranks);
    const int64_t sent =
        std::accumulate(run.bytes_sent.begin(), run.bytes_sent.end(), int64_t{0}) / ranks;
    // Ranks that compute more micro-batches than others gather more often.
    const bool is_even = config.train.lanes % ranks == 0;
    EXPECT_NEAR(static_cast<double>(traffic.gradients + traffic.weights), static_cast<double>(sent),
                is_even ? 2.0 : 1e-3 * static_cast<double>(sent));
}

TEST(Plan, ForetellsMemoryAndTrafficOfEveryZeroStage) {
    for (int zero = 0; zero <= 3; ++zero)
        for (const int ranks : {2, 4}) {
            expect_foretold_in_stage(zero, ranks, {});
            expect_foretold_in_stage(zero, ranks, {"train.dtype=bf16"});
        }
    expect_foretold_in_stage(3, 3, {"model.tied_head=false", "parallel.wire_dtype=bf16"});
    expect_foretold_in_stage(1, 2, {"train.dtype=bf16", "optimizer.offload=states"});
}

TEST(Plan, CountsWhatSavesAndLanesNeed) {
    const std::string file = std::string(PLINTH_SOURCE_DIR) + "/configs/gpt/tiny.yaml";
    const auto plan_of = [&](const std::vector<std::string>& overrides, int64_t ranks) {
        return memory_plan(load<RunConfig>(core::io::posix(), file, overrides), ranks);
    };
    const int64_t copy = plan_of({}, 1).staging;
    EXPECT_EQ(copy, parameter_count(load<RunConfig>(core::io::posix(), file, {}).model) * 12);
    EXPECT_EQ(plan_of({}, 4).staging, copy / 4);
    EXPECT_EQ(plan_of({"optimizer.moments=bf16"}, 1).staging, copy / 12 * 8);
    EXPECT_EQ(2 * plan_of({"optimizer.moments=bf16"}, 1).optimizer, plan_of({}, 1).optimizer);
    EXPECT_EQ(plan_of({"checkpoint.async=false"}, 1).staging, 0);
    EXPECT_EQ(plan_of({"checkpoint.every=0"}, 1).staging, 0);
    EXPECT_EQ(plan_of({"checkpoint.every=0", "checkpoint.every_seconds=60"}, 1).staging, copy);
    // The longest vector once more, where a lane holds several slots: products add in place.
    const std::vector<std::string> single{"train.global_batch=8", "train.micro_batch=1",
                                          "train.lanes=8"};
    const std::vector<std::string> several{"train.global_batch=16", "train.micro_batch=1",
                                           "train.lanes=8"};
    const ModelSection& model = load<RunConfig>(core::io::posix(), file, {}).model;
    EXPECT_EQ(plan_of(several, 1).gradients - plan_of(single, 1).gradients, 4 * 4 * model.width);
}

TEST(Plan, CountsTheSumOfGradientsWhereItIsMoreThanTheActivations) {
    const auto plan_of = [](const char* file, std::vector<std::string> overrides, int64_t ranks) {
        return memory_plan(
            load<RunConfig>(core::io::posix(), std::string(PLINTH_SOURCE_DIR) + "/configs/" + file,
                            overrides),
            ranks);
    };
    // 16 MiB in the allocator and as much in the communicator, however long the gradients are.
    for (const char* data : {"parallel.data=1", "parallel.data=2"}) {
        const MemoryPlan large =
            plan_of("gpt/gpt2_124m.yaml", {"parallel.context=4", data}, data[14] == '1' ? 4 : 8);
        EXPECT_EQ(large.sums, 32 << 20);
        EXPECT_EQ(large.total(), large.weights + large.gradients + large.optimizer +
                                     large.activations + large.staging);
    }
    const std::vector<std::string> small{"parallel.context=2", "train.micro_batch=1",
                                         "data.sequence_length=16", "checkpoint.every=0"};
    const MemoryPlan plan = plan_of("llama/tiny.yaml", small, 2);
    const auto config = load<RunConfig>(
        core::io::posix(), std::string(PLINTH_SOURCE_DIR) + "/configs/llama/tiny.yaml", small);
    core::models::Transformer model(transformer_config(config));
    int64_t elements = 0;
    for (const core::Parameter* parameter : model.parameters().all())
        elements += parameter->local_elements();
    EXPECT_EQ(plan.sums, 2 * 4 * elements);
    EXPECT_GT(plan.sums, plan.activations);
    EXPECT_EQ(plan.total(), plan.weights + plan.gradients + plan.optimizer + plan.sums);
    EXPECT_EQ(plan_of("llama/tiny.yaml", {}, 1).sums, 0);
}

TEST(Plan, SaysWhenTheFullBatchIsReached) {
    const std::string file = std::string(PLINTH_SOURCE_DIR) + "/configs/gpt/tiny.yaml";
    const auto text_of = [&](const std::vector<std::string>& overrides) {
        return plan_text(load<RunConfig>(core::io::posix(), file, overrides), 1);
    };
    EXPECT_NE(text_of({"train.steps=30"}).find("512 a step, 15360 in all\n"), std::string::npos);
    EXPECT_EQ(text_of({}).find("full batch"), std::string::npos);
    const std::string ramp = text_of({"train.steps=30",
                                      "train.batch_ramp=[{samples: 0, global_batch: 2}, {samples: "
                                      "6, global_batch: 4}, {samples: 20, global_batch: 8}]"});
    // 3 steps of 2 samples, 4 of 4, and 23 of 8 samples of 64 tokens.
    EXPECT_NE(ramp.find("512 a step from sample 20 on, 128 in the first step, 13184 in all\n"),
              std::string::npos)
        << ramp;
    EXPECT_NE(ramp.find("idle, at the full batch\n"), std::string::npos) << ramp;
}

// In a pipeline the head, whose gradient is made in the forward pass, has a reducer of its own, and
// so has a table that is tied to it.
TEST(Plan, CountsTheBucketsOfEachReducer) {
    const std::string file = std::string(PLINTH_SOURCE_DIR) + "/configs/gpt/tiny.yaml";
    const auto text_of = [&](std::vector<std::string> overrides, int64_t ranks) {
        overrides.insert(overrides.end(), {"parallel.bucket_bytes=100000000", "train.steps=9"});
        return plan_text(load<RunConfig>(core::io::posix(), file, overrides), ranks);
    };
    EXPECT_NE(text_of({"model.tied_head=false"}, 1).find("# buckets             1\n"),
              std::string::npos);
    const std::string tied = text_of({"parallel.pipeline=2", "model.tied_head=true"}, 2);
    EXPECT_NE(tied.find("# buckets             2, 2\n"), std::string::npos) << tied;
    const std::string untied = text_of({"parallel.pipeline=2", "model.tied_head=false"}, 2);
    EXPECT_NE(untied.find("# buckets             1, 2\n"), std::string::npos) << untied;
}

TEST(Plan, CountsTheTokensOfTheRun) {
    const std::string file = std::string(PLINTH_SOURCE_DIR) + "/configs/gpt/tiny.yaml";
    const auto expect_tokens = [&](std::vector<std::string> overrides, const std::string& length,
                                   int64_t samples) {
        overrides.insert(overrides.end(), {length, "optimizer.warmup_steps=0"});
        const std::string text = plan_text(load<RunConfig>(core::io::posix(), file, overrides), 1);
        EXPECT_NE(text.find(fmt::format(", {} in all\n", 64 * samples)), std::string::npos)
            << length << ", expected " << samples << " samples of 64 tokens: " << text;
    };
    for (const bool is_ramped : {false, true}) {
        std::vector<std::string> overrides{"data.sequence_length=64"};
        if (is_ramped)
            overrides.push_back(
                "train.batch_ramp=[{samples: 0, global_batch: 2}, {samples: 5, global_batch: 4}, "
                "{samples: 12, global_batch: 8}]");
        const RunConfig config = load<RunConfig>(core::io::posix(), file, overrides);
        int64_t samples = 0;
        for (int64_t steps = 1; steps < 12; ++steps) {
            samples += global_batch_at(config.train, samples);
            expect_tokens(overrides, fmt::format("train.steps={}", steps), samples);
            overrides.emplace_back("train.steps=null");
            for (const int64_t less : {0, 127})  // as many steps: the last one is whole
                expect_tokens(overrides, fmt::format("train.tokens={}", 64 * samples - less),
                              samples);
            overrides.pop_back();
        }
    }
    expect_tokens({"data.sequence_length=64"}, "train.steps=1000000000000", 8'000'000'000'000);
}

}  // namespace
}  // namespace plinth::launch
