// SPDX-License-Identifier: Apache-2.0
// What ranks send in a step, counted in their communicators, is what docs/parallelism.md and the
// plan say: axes alone and together.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <sstream>

#include "launch/plan.h"
#include "launch/stage_parts.h"
#include "launch/stage_state.h"
#include "parallel/buckets.h"
#include "parallel/zero/owned_weights.h"
#include "tests/support/observed_group.h"
#include "tests/unit/launch/engine_runs.h"

namespace plinth::launch::test {
namespace {

using plinth::test::GroupObserver;
using plinth::test::ObservedGroup;

/// Bytes by what they are for.
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
    // Numbers of the step.
    if (label == "step scalars" || label == "losses and norm") return other;
    return sent.tensor;
}

/// What is on one rank's place: elements with their padding to whole blocks where that travels.
struct Held {
    MeshPlace place;
    double all = 0;    ///< elements of all uses
    double owned = 0;  ///< of those that this rank owns
    double owned_weights = 0, owned_weight_bytes = 0;
    double gathered_bytes = 0;  ///< of what it owns, in a micro-batch with ZeRO 3
    double summed_over_context = 0, partial = 0, table = 0;  ///< owned, without padding
    core::models::Parts parts;
};

/// Units in the order in which a micro-batch reads them with ZeRO 3: forwards, where a tied table
/// is read once more by the head; then block by block backwards, with train.recompute=full each
/// block once more before. Tables, biases and the head are not read backwards, but for biases of
/// the norms that run again. train.recompute=selective reads a second norm and the product behind
/// it for the hidden layer: GELU's before the second product's weight, SwiGLU's after it.
std::vector<size_t> units_read(const RunConfig& config, core::models::Model& model,
                               const parallel::BucketLayout& layout) {
    std::vector<size_t> order;
    const auto read = [&](const core::Parameter& parameter) {
        const size_t unit = layout.entries()[layout.entry_of(parameter, 0)].unit;
        if (order.empty() || order.back() != unit) order.push_back(unit);
    };
    std::vector<core::Parameter*> all = model.parameters().all();
    // Declared after the weight, and read before it, but for a whole one beside a cut weight: that
    // is added to the sum over the tensor group.
    for (size_t i = 1; i < all.size(); ++i)
        if (all[i]->name().ends_with(".bias") && (all[i - 1]->is_whole() || !all[i]->is_whole()))
            std::swap(all[i], all[i - 1]);
    for (const core::Parameter* parameter : all)
        if (parameter->uses() > 0) read(*parameter);
    for (const core::Parameter* parameter : all)
        if (parameter->uses() > 1) read(*parameter);
    const auto backwards = [&](const std::string& part) {
        const auto is_of = [&](const core::Parameter* parameter) {
            const bool in_block = parameter->name().starts_with("blocks.");
            return part.empty() ? !in_block : parameter->name().starts_with(part);
        };
        if (!part.empty() && config.train.recompute == Recompute::full)
            for (const core::Parameter* parameter : all)
                if (is_of(parameter)) read(*parameter);
        const auto forwards = [&](const std::string& begin) {
            for (const core::Parameter* parameter : all)
                if (parameter->name().starts_with(part + begin)) read(*parameter);
        };
        const auto hidden = [&] {
            for (const char* begin : {"mlp_norm.", "mlp.up.", "mlp.gate_up."})
                forwards(begin);
        };
        const Recompute policy = config.train.recompute;
        const bool has_norms_again = policy == Recompute::norms || policy == Recompute::selective,
                   is_gated = config.model.activation == Activation::swiglu;
        for (auto one = all.rbegin(); one != all.rend(); ++one) {
            const std::string& name = (*one)->name();
            if (!is_of(*one) || name.ends_with(".bias") || name.starts_with("embedding.") ||
                name.starts_with("head."))
                continue;
            const bool makes_hidden =
                policy == Recompute::selective && name == part + "mlp.down.weight";
            if (makes_hidden && !is_gated) hidden();
            for (const char* norm : {"mlp_norm.", "attention_norm."})
                if (has_norms_again && !part.empty() && name == part + norm + "weight")
                    forwards(norm);
            read(**one);
            if (makes_hidden && is_gated) hidden();
        }
    };
    backwards("");  // the final norm
    for (int64_t block = config.model.layers; block-- > 0;)
        backwards(fmt::format("blocks.{}.", block));
    return order;
}

/// How often a micro-batch gathers each unit with ZeRO 3: for a read whose unit is not that of one
/// of the three reads before.
std::vector<int> gathers_of(const RunConfig& config, core::models::Model& model,
                            const parallel::BucketLayout& layout) {
    std::vector<int> gathers(layout.units().size(), 0);
    if (config.parallel.zero < 3) return gathers;
    const std::vector<size_t> order = units_read(config, model, layout);
    for (auto at = order.begin(); at != order.end(); ++at) {
        const auto before = at - std::min<std::ptrdiff_t>(at - order.begin(), 3);
        gathers[*at] += std::find(before, at, *at) == at ? 1 : 0;
    }
    return gathers;
}

/// Adds what one reducer sums.
void add_held(const RunConfig& config, core::models::Model& model,
              const std::vector<core::Parameter*>& parameters, int ranks, Held& held) {
    const int rank = held.place.data;
    const parallel::BucketLayout layout(parameters, config.parallel.bucket_bytes);
    const parallel::WeightLayout bytes(layout, dtype_of(config.train.dtype));
    const std::vector<int> gathers = gathers_of(config, model, layout);
    held.all += static_cast<double>(layout.elements());
    for (size_t b = 0; b < layout.buckets(); ++b) {
        const parallel::FlatRange mine = layout.owned(b, rank, ranks);
        held.owned += static_cast<double>(mine.elements());
        const size_t unit = layout.unit_of(b);
        if (!layout.units()[unit].holds_weights) continue;
        held.owned_weights += static_cast<double>(mine.elements());
        held.owned_weight_bytes += static_cast<double>(bytes.bytes_of(mine));
        held.gathered_bytes += static_cast<double>(gathers[unit] * bytes.bytes_of(mine));
    }
    for (core::Parameter* parameter : parameters) {
        double elements = 0;
        for (int use = 0; use < std::max(1, parameter->uses()); ++use)
            for (const auto& piece : layout.owned(*parameter, use, rank, ranks))
                elements += static_cast<double>(piece.flat.elements());
        held.summed_over_context += elements;
        if (parameter->gradient_is_partial()) held.partial += elements;
        if (parameter->name().starts_with("embedding.tokens"))
            held.table += config.parallel.zero > 0
                              ? elements
                              : static_cast<double>(parameter->local_elements());
    }
}

Held held_by(const RunConfig& config, const parallel::Groups& groups, core::models::Model& model) {
    using parallel::Axis;
    const int rank = groups.coordinate(Axis::data), ranks = groups.size(Axis::data);
    Held held{.place = {groups.coordinate(Axis::pipeline), rank, groups.coordinate(Axis::tensor)}};
    if (config.parallel.pipeline == 1) {
        add_held(config, model, model.parameters().all(), ranks, held);
    } else {  // each reducer of a stage cuts for itself
        const std::vector<core::models::Phase> phases = model.phases();
        for (const core::models::Chunk& chunk : phases.front().chunks)
            for (const auto& part : reducer_parts(chunk, [&](const core::Parameter& parameter) {
                     return config.model.tied_head &&
                            parameter.name().starts_with("embedding.tokens");
                 }))
                if (!part.empty()) add_held(config, model, part, ranks, held);
    }
    for (const core::models::Parts& parts : stage_parts(config, held.place.stage)) {
        held.parts.blocks += parts.blocks;
        held.parts.has_embedding |= parts.has_embedding;
        held.parts.has_head |= parts.has_head;
    }
    return held;
}

struct Rank {
    Held held;
    Sent sent;
};

/// Every rank's second step: in the first one ZeRO 3 learns the order of the units.
std::vector<Rank> counted(const RunConfig& config) {
    const ParallelSection& p = config.parallel;
    const auto ranks = static_cast<int>(p.data * p.pipeline * p.context * p.tensor);
    const auto slots = static_cast<double>(config.train.global_batch / config.train.micro_batch);
    std::vector<Rank> all(static_cast<size_t>(ranks));
    std::mutex mutex;
    parallel::run_as_threads(ranks, [&](Communicator& sound) {
        std::map<std::string, int64_t> bytes;
        auto observer = std::make_shared<GroupObserver>();
        observer->sent = [&](const std::string& label, int64_t more) { bytes[label] += more; };
        ObservedGroup world(sound, observer);
        EngineRank rank(config, world);
        rank.engine.initialize(7);
        rank.engine.decide_on_device();
        rank.train();
        bytes.clear();
        rank.train();
        const std::lock_guard lock(mutex);
        Rank& mine = all[static_cast<size_t>(sound.rank())];
        mine.held = held_by(config, rank.groups, *rank.model);
        double other = 0;
        for (const auto& [label, sum] : bytes)
            kind_of(mine.sent, other, label) += static_cast<double>(sum);
        EXPECT_GT(bytes["losses and norm"], 0);
        EXPECT_LE(other, (20000 + 100 * slots) * ranks)
            << "numbers, the 2 KiB of each norm's sum among them";
    });
    return all;
}

/// The formulas of docs/parallelism.md.
Sent documented(const RunConfig& config, const Held& held) {
    const ParallelSection& p = config.parallel;
    const ModelSection& m = config.model;
    const auto P = static_cast<double>(p.data), t = static_cast<double>(p.tensor),
               c = static_cast<double>(p.context);
    const parallel::LanePlan plan{config.train.global_batch / config.train.micro_batch,
                                  config.train.lanes, static_cast<int>(p.data)};
    const auto micro_batches = static_cast<double>(plan.slots_of(held.place.data).size());
    double lanes = 0;
    for (int64_t lane = held.place.data; lane < config.train.lanes; lane += p.data)
        ++lanes;
    const auto B = static_cast<double>(config.train.micro_batch),
               T = static_cast<double>(config.data.sequence_length) / c,
               D = static_cast<double>(m.width), L = static_cast<double>(held.parts.blocks);
    const double e = config.train.dtype == ComputeType::bf16 ? 2 : 4;
    const double wire = config.parallel.wire_dtype == ComputeType::bf16 ? 2 : 4;
    const double passes = config.train.recompute == Recompute::full ? 3 : 2;
    Sent sent;
    sent.gradients = lanes * wire * (held.all - held.owned);
    if (p.zero == 0) sent.gradients += 4 * held.owned_weights * (P - 1);
    if (p.pipeline > 1 && m.tied_head) sent.gradients += 4 * held.table;
    if (p.zero == 1 || p.zero == 2) sent.weights = held.owned_weight_bytes * (P - 1);
    if (p.zero == 3)
        sent.weights = (static_cast<double>(plan.slots) - micro_batches) * held.gathered_bytes;
    const bool is_first = held.place.stage == 0, is_last = held.place.stage == p.pipeline - 1;
    const double cuts =
        2 * static_cast<double>(p.virtual_stages) - (is_first ? 1 : 0) - (is_last ? 1 : 0);
    sent.activations = micro_batches * cuts * B * T * D * e / t;
    const double r = config.train.recompute == Recompute::full        ? 4 * L
                     : config.train.recompute == Recompute::selective ? 3 * L
                     : config.train.recompute == Recompute::norms     ? 2 * L
                                                                      : 0;
    const double ends = (held.parts.has_embedding ? 2 : 0) + (held.parts.has_head ? 2 : 0);
    sent.tensor = micro_batches * ((8 * L + r + ends) * B * T * D * e * (t - 1) / t +
                                   (held.parts.has_head ? 12 * B * T * (t - 1) : 0)) +
                  8 * (t - 1) / t * held.partial;
    const double GK = static_cast<double>(m.kv_heads * m.head_width) / t;
    sent.context = micro_batches * L * (c - 1) * B * T * 2 * GK * (passes * e + 4) +
                   8 * (c - 1) / c * held.summed_over_context;
    return sent;
}

void expect_same(const Sent& sent, const Sent& expected, double slack, const std::string& what) {
    EXPECT_NEAR(sent.gradients, expected.gradients, 0.5) << what;
    EXPECT_NEAR(sent.weights, expected.weights, 0.5) << what;
    EXPECT_NEAR(sent.activations, expected.activations, 0.5) << what;
    EXPECT_NEAR(sent.tensor, expected.tensor, slack) << what;
    EXPECT_NEAR(sent.context, expected.context, slack) << what;
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
    // The parts of a sum over a group differ by an element, of which a rank sends its own to all.
    const double slack = 8 * static_cast<double>(p.tensor * p.context);
    for (const Rank& rank : counted(config)) {
        const MeshPlace& place = rank.held.place;
        const std::string what =
            fmt::format("{}: {}: stage {}, data {}, tensor {}", file, fmt::join(more, " "),
                        place.stage, place.data, place.tensor);
        expect_same(rank.sent, documented(config, rank.held), slack, what + ", documented");
        const TrafficPlan plan = traffic_plan(config, ranks, place);
        expect_same(rank.sent,
                    {static_cast<double>(plan.gradients), static_cast<double>(plan.weights),
                     static_cast<double>(plan.activations), static_cast<double>(plan.tensor),
                     static_cast<double>(plan.context)},
                    slack, what + ", planned");
    }
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
    for (const char* recompute : {"none", "norms", "selective", "full"})
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

TEST(Traffic, OfEveryRankWhereLanesAreUneven) {
    for (const char* zero :
         {"parallel.zero=0", "parallel.zero=1", "parallel.zero=2", "parallel.zero=3"})
        for (const char* file : {"gpt/tiny.yaml", "llama/tiny.yaml"})
            expect_counted({"parallel.data=3", zero}, file);
    expect_counted({"parallel.data=3", "train.lanes=4", "parallel.wire_dtype=bf16"});
    expect_counted({"parallel.data=3", "parallel.tensor=2", "parallel.zero=1"}, "llama/tiny.yaml");
    expect_counted({"parallel.data=3", "parallel.pipeline=2", "parallel.zero=1"});
}

TEST(Traffic, OfTheFirstTheMiddleAndTheLastStages) {
    for (const char* file : {"gpt/tiny.yaml", "llama/tiny.yaml"})
        for (const char* more : {"parallel.data=1", "parallel.data=2", "parallel.tensor=2",
                                 "parallel.context=2", "train.recompute=full"})
            expect_counted({"parallel.pipeline=4", "model.layers=4", more}, file);
    expect_counted({"parallel.pipeline=4", "model.layers=8", "parallel.schedule=interleaved",
                    "parallel.virtual_stages=2"});
}

TEST(Traffic, OfTensorRanksThatShareTheVocabularyUnevenly) {
    const std::vector<std::string> uneven{"model.vocab_size=257", "model.vocab_multiple=1",
                                          "parallel.tensor=2"};
    for (const char* file : {"gpt/tiny.yaml", "llama/tiny.yaml"})
        for (const std::vector<std::string>& beside : {std::vector<std::string>{"parallel.data=1"},
                                                       {"parallel.data=2", "parallel.zero=1"},
                                                       {"parallel.pipeline=2"},
                                                       {"parallel.data=2", "parallel.zero=3"},
                                                       {"parallel.context=2"}}) {
            std::vector<std::string> words = uneven;
            words.insert(words.end(), beside.begin(), beside.end());
            expect_counted(words, file);
        }
}

TEST(Traffic, OfUnitsOfOneParameterAndOfMany) {
    for (const char* bucket : {"4KiB", "64KiB", "1MiB"})
        for (const char* recompute : {"none", "norms", "selective", "full"})
            for (const char* file : {"gpt/tiny.yaml", "llama/tiny.yaml"})
                for (const char* tensor : {"parallel.tensor=1", "parallel.tensor=2"})
                    expect_counted({"parallel.zero=3", "parallel.data=2", tensor,
                                    fmt::format("parallel.bucket_bytes={}", bucket),
                                    fmt::format("train.recompute={}", recompute)},
                                   file);
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

/// For benchmarks/RESULTS.md.
TEST(Traffic, DISABLED_TableOfRanks) {
    fmt::print(
        "| layout | stage, data, tensor | | gradients | weights | activations | tensor | "
        "context |\n|---|---|---|---|---|---|---|---|\n");
    for (const char* layout :
         {"parallel.data=3", "parallel.data=2 parallel.zero=1", "parallel.data=2 parallel.zero=2",
          "parallel.data=3 parallel.zero=3", "parallel.tensor=2", "parallel.context=2",
          "parallel.pipeline=4 model.layers=4", "parallel.pipeline=2 parallel.tensor=2"}) {
        std::vector<std::string> words{"data.sequence_length=32", "train.global_batch=8",
                                       "train.lanes=8", "parallel.data=1"};
        std::istringstream in(layout);
        for (std::string word; in >> word;)
            words.push_back(word);
        const RunConfig config = tiny_config("gpt/tiny.yaml", words);
        const std::vector<Rank> ranks = counted(config);
        for (const Rank& rank : ranks) {
            const MeshPlace& place = rank.held.place;
            const TrafficPlan plan =
                traffic_plan(config, static_cast<int64_t>(ranks.size()), place);
            const Sent& sent = rank.sent;
            fmt::print(
                "| {} | {}, {}, {} | counted | {:.0f} | {:.0f} | {:.0f} | {:.0f} | {:.0f} "
                "|\n",
                layout, place.stage, place.data, place.tensor, sent.gradients, sent.weights,
                sent.activations, sent.tensor, sent.context);
            fmt::print("| | | planned | {} | {} | {} | {} | {} |\n", plan.gradients, plan.weights,
                       plan.activations, plan.tensor, plan.context);
        }
    }
}

}  // namespace
}  // namespace plinth::launch::test
