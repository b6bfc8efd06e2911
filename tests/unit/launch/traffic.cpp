// SPDX-License-Identifier: Apache-2.0
// What ranks send in a step, counted in their communicators, is what docs/parallelism.md and the
// plan say: axes alone and together.
#include <gtest/gtest.h>

#include <map>
#include <mutex>

#include "launch/plan.h"
#include "parallel/buckets.h"
#include "tests/support/observed_group.h"
#include "tests/unit/launch/engine_runs.h"

namespace plinth::launch::test {
namespace {

using plinth::test::GroupObserver;
using plinth::test::ObservedGroup;

/// Bytes by what they are for, of a rank on average.
struct Sent {
    double gradients = 0, weights = 0, activations = 0, tensor = 0, context = 0;
};

double& kind_of(Sent& sent, double& other, const std::string& label) {
    const auto holds = [&](const char* text) { return label.find(text) != std::string::npos; };
    if (holds(" of micro-batch ")) return sent.activations;
    if (label.starts_with("gradients, ") || label.starts_with("gradient of "))
        return sent.gradients;
    if (label.starts_with("weights, ")) return sent.weights;
    if (label == "gradients of other tokens" || holds(".attention key")) return sent.context;
    // Numbers of the step, once or once a micro-batch: losses, flags, norm.
    if (label == "losses" || label == "loss weights" || label == "step scalars" || label == "sum")
        return other;
    return sent.tensor;
}

/// Of the second step: in the first one ZeRO 3 learns the order of the units.
Sent counted(const RunConfig& config) {
    const ParallelSection& p = config.parallel;
    const auto ranks = static_cast<int>(p.data * p.pipeline * p.context * p.tensor);
    Sent all;
    double other = 0;
    std::mutex mutex;
    parallel::run_as_threads(ranks, [&](Communicator& sound) {
        std::map<std::string, int64_t> bytes;
        auto observer = std::make_shared<GroupObserver>();
        observer->sent = [&](const std::string& label, int64_t more) { bytes[label] += more; };
        ObservedGroup world(sound, observer);
        EngineRank rank(config, world);
        rank.engine.initialize(7);
        rank.train();
        bytes.clear();
        rank.train();
        const std::lock_guard lock(mutex);
        for (const auto& [label, sum] : bytes)
            kind_of(all, other, label) += static_cast<double>(sum) / ranks;
    });
    const auto slots = static_cast<double>(config.train.global_batch / config.train.micro_batch);
    EXPECT_LE(other, 20000 + 100 * slots) << "numbers, the 2 KiB of each norm's sum among them";
    return all;
}

/// What a rank of one stage holds: elements, padding to whole blocks included where it travels.
struct Held {
    double elements = 0, of_all_uses = 0, weight_bytes = 0;
    double summed_over_context = 0, partial = 0;  ///< without padding
};

Held held_by(const RunConfig& config, core::models::Model& model) {
    const auto padded = [](int64_t n) { return (n + 1023) / 1024 * 1024; };
    Held held;
    for (const core::Parameter* parameter : model.parameters().all()) {
        const int64_t n = parameter->local_elements(), uses = std::max(1, parameter->uses());
        held.elements += static_cast<double>(padded(n));
        held.of_all_uses += static_cast<double>(padded(n) * uses);
        held.weight_bytes +=
            static_cast<double>(padded(n)) *
            static_cast<double>(size_of(parameter->read_as(dtype_of(config.train.dtype))));
        held.summed_over_context += static_cast<double>(n * uses);
        if (parameter->gradient_is_partial()) held.partial += static_cast<double>(n);
    }
    return held;
}

/// The formulas of docs/parallelism.md.
Sent documented(const RunConfig& config) {
    const ParallelSection& p = config.parallel;
    const ModelSection& m = config.model;
    const auto P = static_cast<double>(p.data), t = static_cast<double>(p.tensor),
               c = static_cast<double>(p.context), S = static_cast<double>(p.pipeline);
    const auto lanes = static_cast<double>(config.train.lanes);
    const auto micro_batches =
        static_cast<double>(config.train.global_batch / config.train.micro_batch) / P;
    const auto B = static_cast<double>(config.train.micro_batch),
               T = static_cast<double>(config.data.sequence_length) / c,
               D = static_cast<double>(m.width), L = static_cast<double>(m.layers),
               V = static_cast<double>((m.vocab_size + m.vocab_multiple - 1) / m.vocab_multiple *
                                       m.vocab_multiple);
    const double e = config.train.dtype == ComputeType::bf16 ? 2 : 4;
    const double wire = config.parallel.wire_dtype == ComputeType::bf16 ? 2 : 4;
    std::vector<Held> stages(static_cast<size_t>(p.pipeline));
    parallel::run_as_threads(
        static_cast<int>(p.data * p.pipeline * p.context * p.tensor), [&](Communicator& world) {
            parallel::Groups groups(world, mesh_config(p));
            const auto model = language_model(config, groups);
            const auto stage = static_cast<size_t>(groups.coordinate(parallel::Axis::pipeline));
            if (groups.is_first(parallel::Axis::data) && groups.is_first(parallel::Axis::context) &&
                groups.is_first(parallel::Axis::tensor))
                stages[stage] = held_by(config, *model);
        });
    const double passes = config.train.recompute == Recompute::full ? 3 : 2;
    Sent sent;
    for (const Held& held : stages) {
        sent.gradients += lanes / P * wire * held.of_all_uses * (P - 1) / P;
        if (p.zero == 0) sent.gradients += 4 * held.elements * (P - 1) / P;
        if (p.zero == 1 || p.zero == 2) sent.weights += held.weight_bytes * (P - 1) / P;
        if (p.zero == 3) sent.weights += micro_batches * passes * held.weight_bytes * (P - 1) / P;
        sent.context += 8 * (c - 1) / c * held.summed_over_context / P;
        sent.tensor += 8 * (t - 1) / t * held.partial / P;
    }
    if (p.pipeline > 1 && m.tied_head)
        sent.gradients += 2 * V * D / t * 4 / (p.zero > 0 ? P : 1);  // two stages, one table each
    const double chunks = S * static_cast<double>(p.virtual_stages);
    sent.activations = micro_batches * 2 * (chunks - 1) * B * T * D * e / t;
    const double r = config.train.recompute == Recompute::full        ? 4 * L
                     : config.train.recompute == Recompute::selective ? 2 * L
                                                                      : 0;
    sent.tensor +=
        micro_batches * ((8 * L + r + 4) * B * T * D * e * (t - 1) / t + 12 * B * T * (t - 1));
    const double GK = static_cast<double>(m.kv_heads * m.head_width) / t;
    sent.context += micro_batches * L * (c - 1) * B * T * 2 * GK * (passes * e + 4);
    for (double* each :
         {&sent.gradients, &sent.weights, &sent.activations, &sent.tensor, &sent.context})
        *each /= S;
    return sent;
}

void expect_counted(const std::vector<std::string>& more, const char* file = "gpt/tiny.yaml") {
    std::vector<std::string> words{"model.vocab_multiple=8", "data.sequence_length=32",
                                   "train.global_batch=8", "train.lanes=8", "parallel.data=1"};
    words.insert(words.end(), more.begin(), more.end());
    const RunConfig config = tiny_config(file, words);
    const ParallelSection& p = config.parallel;
    const int64_t ranks = p.data * p.pipeline * p.context * p.tensor;
    const auto problem = validate_world(config, ranks);
    ASSERT_FALSE(problem) << problem->key << ": " << problem->message;
    const std::string what = fmt::format("{}: {}", file, fmt::join(more, " "));
    const Sent sent = counted(config), formula = documented(config);
    const TrafficPlan plan = traffic_plan(config, ranks);
    EXPECT_NEAR(sent.gradients, formula.gradients, 1) << what;
    EXPECT_NEAR(sent.activations, formula.activations, 1) << what;
    EXPECT_NEAR(sent.tensor, formula.tensor, 1) << what;
    EXPECT_NEAR(sent.context, formula.context, 1) << what;
    if (p.zero < 3) {
        EXPECT_NEAR(sent.weights, formula.weights, 1) << what;
    } else {  // units at the turn from forward to backward pass are gathered once
        EXPECT_LE(sent.weights, formula.weights) << what;
        EXPECT_GE(sent.weights, formula.weights / 2) << what;
    }
    // The plan counts in whole bytes.
    constexpr double whole = 8;
    EXPECT_NEAR(static_cast<double>(plan.gradients), sent.gradients, whole) << what;
    EXPECT_NEAR(static_cast<double>(plan.weights), sent.weights, whole) << what;
    EXPECT_NEAR(static_cast<double>(plan.activations), sent.activations, whole) << what;
    EXPECT_NEAR(static_cast<double>(plan.tensor), sent.tensor, whole) << what;
    EXPECT_NEAR(static_cast<double>(plan.context), sent.context, whole) << what;
}

TEST(Traffic, OfDataRanksWithEveryZeroStage) {
    for (const char* file : {"gpt/tiny.yaml", "llama/tiny.yaml"})
        for (const char* dtype : {"train.dtype=fp32", "train.dtype=bf16"})
            for (const char* zero :
                 {"parallel.zero=0", "parallel.zero=1", "parallel.zero=2", "parallel.zero=3"})
                for (const char* data : {"parallel.data=2", "parallel.data=4"})
                    expect_counted({zero, data, dtype}, file);
    expect_counted({"parallel.zero=1", "parallel.data=4", "train.lanes=4"});
    expect_counted({"parallel.zero=2", "parallel.data=2", "parallel.wire_dtype=bf16"});
    for (const char* recompute : {"none", "selective", "full"})
        expect_counted(
            {"parallel.zero=3", "parallel.data=2", fmt::format("train.recompute={}", recompute)});
}

TEST(Traffic, OfPipelinesWithTiedTablesAndZero) {
    for (const char* file : {"gpt/tiny.yaml", "llama/tiny.yaml"})  // tied, untied
        for (const char* zero : {"parallel.zero=0", "parallel.zero=1", "parallel.zero=2"})
            for (const char* schedule : {"1f1b", "zero_bubble"})
                for (const char* data : {"parallel.data=1", "parallel.data=2"})
                    expect_counted({"parallel.pipeline=2", zero, data,
                                    fmt::format("parallel.schedule={}", schedule)},
                                   file);
    expect_counted({"parallel.pipeline=2", "parallel.schedule=interleaved",
                    "parallel.virtual_stages=2", "model.layers=4", "train.dtype=bf16"});
}

TEST(Traffic, OfTensorAndContextRanksBesideOthers) {
    for (const char* file : {"gpt/tiny.yaml", "llama/tiny.yaml"})
        for (const char* dtype : {"train.dtype=fp32", "train.dtype=bf16"}) {
            expect_counted({"parallel.tensor=2", "parallel.data=2", dtype}, file);
            expect_counted({"parallel.context=2", "parallel.data=2", dtype}, file);
            expect_counted({"parallel.context=2", "parallel.tensor=2", dtype}, file);
            expect_counted({"parallel.tensor=2", "parallel.data=2", "parallel.zero=3", dtype},
                           file);
            expect_counted({"parallel.context=2", "parallel.data=2", "parallel.zero=1", dtype},
                           file);
            expect_counted(
                {"parallel.context=2", "parallel.tensor=2", "train.recompute=full", dtype}, file);
        }
}

TEST(Traffic, OfThreeAxesAtOnce) {
    for (const char* file : {"gpt/tiny.yaml", "llama/tiny.yaml"})
        for (const char* zero : {"parallel.zero=0", "parallel.zero=1"}) {
            expect_counted({"parallel.pipeline=2", "parallel.tensor=2", "parallel.data=2", zero},
                           file);
            expect_counted({"parallel.pipeline=2", "parallel.context=2", "parallel.data=2", zero},
                           file);
            expect_counted({"parallel.pipeline=2", "parallel.context=2", "parallel.tensor=2",
                            "train.dtype=bf16"},
                           file);
            expect_counted({"parallel.context=2", "parallel.tensor=2", "parallel.data=2", zero},
                           file);
        }
}

}  // namespace
}  // namespace plinth::launch::test
