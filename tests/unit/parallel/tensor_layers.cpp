// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "core/models/classifier.h"
#include "core/models/transformer.h"
#include "core/models/transformer_plan.h"
#include "core/optim/parameter_storage.h"
#include "parallel/buckets.h"
#include "parallel/comm/threads.h"
#include "parallel/tensor_parallel/tensor_layout.h"
#include "tests/support/altered_group.h"
#include "tests/support/expect_error.h"
#include "tests/support/surroundings.h"
#include "tests/unit/parallel/shared_module.h"

namespace plinth::test {
namespace {

using core::Batch;
using core::Tensor;
using core::models::Transformer;
using core::models::TransformerConfig;
using core::nn::Declaration;
using core::nn::Layout;
using core::nn::Placement;
using Positions = TransformerConfig::Positions;

constexpr int64_t width = 24, ffn_width = 40;

TransformerConfig gpt() {
    return {.vocab_size = 21,  // which no number of ranks here divides
            .layers = 2,
            .width = width,
            .heads = 8,
            .kv_heads = 8,
            .head_width = 4,
            .ffn_width = ffn_width,
            .max_positions = 8,
            .dropout = 0.2,
            .z_loss = 1e-3};
}
TransformerConfig llama() {
    TransformerConfig config = gpt();
    config.vocab_multiple = 8;
    config.kv_heads = 4;
    config.norm.kind = core::nn::NormConfig::Kind::rms;
    config.positions = Positions::rotary;
    config.rotary = {.heads = 8, .kv_heads = 4, .theta = 10000.0};
    config.activation = TransformerConfig::Activation::swiglu;
    config.tied_head = config.attention_bias = config.qkv_bias = config.mlp_bias = false;
    config.qk_norm = true;
    return config;
}
TransformerConfig bloom() {
    TransformerConfig config = gpt();
    config.positions = Positions::alibi;
    config.embedding_norm = true;
    return config;
}

/// A module alone, at the path that the plan knows.
template <typename Module, typename... Args>
ModuleCase module_case(std::string name, core::nn::Plan plan, std::vector<std::string> path,
                       std::function<Tensor(const Module&, const Tensor&, const Batch&)> run,
                       Args... args) {
    const auto declare = [=](const Layout& layout) {
        struct Owner {
            core::nn::ParameterSet parameters;
            std::optional<Module> module;
        };
        auto owner = std::make_shared<Owner>();
        Declaration at(owner->parameters, layout);
        for (const std::string& part : path)
            at = at / part;
        owner->module.emplace(at, args...);
        return Declared{.owner = owner,
                        .parameters = &owner->parameters,
                        .run = [owner, run](const Tensor& x, const Batch& batch) {
                            return run(*owner->module, x, batch);
                        }};
    };
    return {.name = name, .plan = std::move(plan), .declare = declare, .width = width};
}

template <typename Model>
ModuleCase model_case(std::string name, core::nn::Plan plan,
                      std::function<std::shared_ptr<Model>(const Layout&)> make, bool loss,
                      std::function<Tensor(const Model&, const Tensor&, const Batch&)> run,
                      bool takes_x = false) {
    const auto declare = [=](const Layout& layout) {
        const std::shared_ptr<Model> model = make(layout);
        return Declared{.owner = model,
                        .parameters = &model->parameters(),
                        .run = [model, run](const Tensor& x,
                                            const Batch& batch) { return run(*model, x, batch); },
                        .takes_x = takes_x,
                        .gives_loss = loss};
    };
    return {.name = name, .plan = std::move(plan), .declare = declare, .width = width};
}

ModuleCase mlp_case(const TransformerConfig& config, std::string name) {
    const core::nn::MlpConfig mlp{
        .activation = config.activation, .width = width, .ffn_width = ffn_width, .bias = true};
    return module_case<core::nn::Mlp>(
        std::move(name), core::models::transformer_plan(config), {"blocks", "0", "mlp"},
        [](const core::nn::Mlp& module, const Tensor& x, const Batch& batch) {
            return module(x, batch.slice);
        },
        mlp);
}

ModuleCase attention_case(const TransformerConfig& config, std::string name) {
    core::nn::AttentionConfig attention{.width = width,
                                        .heads = config.heads,
                                        .kv_heads = config.kv_heads,
                                        .head_width = config.head_width,
                                        .qk_norm = config.qk_norm,
                                        .alibi = config.positions == Positions::alibi,
                                        .dropout = config.dropout};
    if (config.positions == Positions::rotary) attention.rotary = config.rotary;
    return module_case<core::nn::SelfAttention>(
        std::move(name), core::models::transformer_plan(config), {"blocks", "0", "attention"},
        [](const core::nn::SelfAttention& module, const Tensor& x, const Batch& batch) {
            return module(x, batch, core::nn::full_attention());
        },
        int64_t{0}, attention);
}

ModuleCase embedding_case(const TransformerConfig& config, std::string name) {
    // The first part of the model alone.
    const std::vector<core::models::Parts> parts = {{.has_embedding = true}};
    return model_case<Transformer>(
        std::move(name), core::models::transformer_plan(config),
        [=](const Layout& layout) { return std::make_shared<Transformer>(config, parts, layout); },
        /*loss=*/false,
        [](const Transformer& model, const Tensor&, const Batch& batch) {
            return model.run(0, {}, batch, model.attention());
        });
}

ModuleCase loss_case(TransformerConfig config, std::string name) {
    return model_case<Transformer>(
        std::move(name), core::models::transformer_plan(config),
        [config](const Layout& layout) { return std::make_shared<Transformer>(config, layout); },
        /*loss=*/true,
        [](const Transformer& model, const Tensor&, const Batch& batch) {
            return model.loss(batch).sum;
        });
}

/// One label a sample, of which every rank's slice has some.
Batch with_labels(const Batch& batch) {
    std::vector<int32_t> targets(static_cast<size_t>(batch.tokens.elements()),
                                 Batch::ignored_target);
    for (size_t sample = 0; sample < 3; ++sample)
        targets[sample * 8 + 3 * sample + 1] = static_cast<int32_t>(sample);
    Batch labelled = batch;
    labelled.targets =
        Tensor::of(targets, batch.tokens.shape(), core::Scope::current().allocator());
    return labelled;
}

ModuleCase classifier_case() {
    using core::models::Classifier;
    return model_case<Classifier>(
        "classifier", core::models::classifier_plan(bloom()),
        [](const Layout& layout) { return std::make_shared<Classifier>(bloom(), 3, layout); },
        /*loss=*/true,
        [](const Classifier& model, const Tensor&, const Batch& batch) {
            return model.loss(with_labels(batch)).sum;
        });
}

const std::vector<ModuleCase>& cases() {
    static const std::vector<ModuleCase> all = {
        mlp_case(gpt(), "mlp"),
        mlp_case(llama(), "gated mlp"),
        attention_case(gpt(), "attention"),
        attention_case(llama(), "grouped attention, rotary, query and key norms"),
        attention_case(bloom(), "attention with ALiBi"),
        embedding_case(gpt(), "tokens and positions"),
        embedding_case(bloom(), "tokens and a norm"),
        loss_case(gpt(), "gpt"),
        loss_case(llama(), "llama"),
        loss_case(bloom(), "bloom"),
        classifier_case(),
    };
    return all;
}

// fp32 sums of some hundred products in other groups: a few units of 2^-24 of the largest value,
// ten times that after two layers forwards and backwards.
constexpr double tolerance = 5e-6;

TEST(TensorLayers, EqualThePlainOnesInOutputAndGradients) {
    for (const ModuleCase& c : cases()) {
        const ModuleResult plain = run_module(c, 1);
        for (const int ranks : {2, 4})
            EXPECT_LT(distance(run_module(c, ranks), plain), tolerance)
                << c.name << " on " << ranks << " ranks";
    }
}

TEST(TensorLayers, InBf16TheyDifferByRoundingOnly) {
    for (const ModuleCase& c : cases())
        EXPECT_LT(distance(run_module(c, 2, {.dtype = DType::bf16}),
                           run_module(c, 1, {.dtype = DType::bf16})),
                  0.06)
            << c.name;
}

TEST(TensorLayers, MakingOutputsAgainChangesNoBit) {
    for (const ModuleCase& c : cases())
        EXPECT_EQ(distance(run_module(c, 2, {.remake = true}), run_module(c, 2)), 0.0) << c.name;
}

TEST(TensorLayers, RecomputingBlocksChangesNoBit) {
    for (TransformerConfig config : {gpt(), llama()}) {
        const ModuleResult kept = run_module(loss_case(config, ""), 2);
        config.recompute = true;
        EXPECT_EQ(distance(run_module(loss_case(config, ""), 2), kept), 0.0);
    }
}

TEST(TensorLayersMutants, ReductionsDroppedOrSwappedShow) {
    for (const ModuleCase& c : cases()) {
        const ModuleResult plain = run_module(c, 1);
        const auto far = [&](const AlteredGroup::Alter& alter) {
            return distance(run_module(c, 4,
                                       {.wrap =
                                            [&](parallel::Communicator& sound) {
                                                return std::make_unique<AlteredGroup>(sound, alter);
                                            }}),
                            plain);
        };
        EXPECT_GT(far(dropping("sum")), 100 * tolerance) << c.name;
        EXPECT_GT(far(dropping("backward")), 100 * tolerance) << c.name;
        // Summands in another order are no error; tokens are.
        EXPECT_GT(far(swapping(c.name.starts_with("tokens") ? "backward" : "tokens")),
                  100 * tolerance)
            << c.name;
    }
}

/// What the head's rows say, lost between the ranks.
TEST(TensorLayersMutants, AnUncombinedLossShows) {
    for (const TransformerConfig& config : {gpt(), llama()}) {
        const ModuleCase c = loss_case(config, "");
        const auto alter = dropping("head rows");
        EXPECT_GT(distance(run_module(c, 2,
                                      {.wrap =
                                           [&](parallel::Communicator& sound) {
                                               return std::make_unique<AlteredGroup>(sound, alter);
                                           }}),
                           run_module(c, 1)),
                  100 * tolerance);
    }
}

/// Ends that add the bias behind a row product on their own.
class BiasTwice final : public Layout {
  public:
    explicit BiasTwice(const Layout& sound) : sound_(sound) {}
    void place(core::Parameter& parameter, const std::string& path) const override {
        sound_.place(parameter, path);
        if (parameter.name() == path + ".bias") biases_[path] = &parameter;
    }
    std::shared_ptr<const core::nn::Ends> ends(const std::string& path) const override {
        auto sound = sound_.ends(path);
        if (!path.ends_with("down")) return sound;
        return std::make_shared<Adding>(std::move(sound), *biases_.at(path));
    }

  private:
    struct Adding final : core::nn::Ends {
        Adding(std::shared_ptr<const core::nn::Ends> ends, core::Parameter& with)
            : sound(std::move(ends)), bias(with) {}
        Tensor enter(const Tensor& x, const core::TokenSlice& tokens) const override {
            return sound->enter(x, tokens);
        }
        Tensor leave(const Tensor& y, const core::TokenSlice& tokens) const override {
            return core::ops::add_bias(sound->leave(y, tokens), bias);
        }
        std::shared_ptr<const core::nn::Ends> sound;
        core::Parameter& bias;
    };
    const Layout& sound_;
    mutable std::map<std::string, core::Parameter*> biases_;
};

TEST(TensorLayersMutants, ABiasAddedTwiceShows) {
    for (const ModuleCase& c : {mlp_case(gpt(), "mlp"), loss_case(gpt(), "gpt")}) {
        const ModuleRun twice{
            .wrap_layout = [](const Layout& sound) { return std::make_unique<BiasTwice>(sound); }};
        EXPECT_GT(distance(run_module(c, 2, twice), run_module(c, 1)), 100 * tolerance) << c.name;
    }
}

/// Ends whose ranks take each other's slices of the tokens for dropout.
TEST(TensorLayersMutants, AMaskOfAnotherPlaceShows) {
    // The same numbers without the place of the slice: what every rank but the first would do
    // wrong.
    const auto shifted = [](const ModuleCase& c) {
        ModuleCase other = c;
        other.declare = [declare = c.declare](const Layout& layout) {
            Declared declared = declare(layout);
            const auto run = declared.run;
            declared.run = [run](const Tensor& x, Batch batch) {
                if (!batch.slice.is_whole()) batch.slice.first = 8 - batch.slice.first - 4;
                return run(x, batch);
            };
            return declared;
        };
        return other;
    };
    const ModuleCase c = embedding_case(bloom(), "");
    EXPECT_GT(distance(run_module(shifted(c), 2), run_module(c, 1)), 100 * tolerance);
}

TEST(PlannedLayout, CutsEachThingThatAProductMakes) {
    core::models::Transformer model(
        llama(), parallel::PlannedLayout(core::models::transformer_plan(llama()), 1, 4));
    const auto boxes = [&](const std::string& name) {
        std::string text;
        for (const core::Shard& box : model.parameters().find(name)->boxes())
            text += fmt::format("{}+{} ", box.offset.text(), box.local_shape.text());
        return text;
    };
    EXPECT_EQ(boxes("blocks.1.attention.qkv.weight"),
              "[8, 0]+[8, 24] [36, 0]+[4, 24] [52, 0]+[4, 24] ");
    EXPECT_EQ(boxes("blocks.0.attention.output.weight"), "[0, 8]+[24, 8] ");
    EXPECT_EQ(boxes("blocks.0.mlp.gate_up.weight"), "[10, 0]+[10, 24] [50, 0]+[10, 24] ");
    EXPECT_EQ(boxes("blocks.0.mlp.down.weight"), "[0, 10]+[24, 10] ");
    EXPECT_EQ(boxes("embedding.tokens.weight"), "[6, 0]+[6, 24] ");
    EXPECT_EQ(boxes("head.weight"), "[6, 0]+[6, 24] ");
    EXPECT_EQ(boxes("final_norm.weight"), "[0]+[24] ");
    EXPECT_TRUE(model.parameters().find("final_norm.weight")->gradient_is_partial());
    EXPECT_FALSE(model.parameters().find("head.weight")->gradient_is_partial());
}

TEST(PlannedLayout, EveryElementIsHeldByOneRankOrByAll) {
    for (const TransformerConfig& config : {gpt(), llama(), bloom()})
        for (const int ranks : {1, 2, 4}) {
            std::map<std::string, int64_t> held, elements;
            for (int rank = 0; rank < ranks; ++rank) {
                const Transformer model(
                    config,
                    parallel::PlannedLayout(core::models::transformer_plan(config), rank, ranks));
                for (const core::Parameter* parameter :
                     const_cast<Transformer&>(model).parameters().all()) {
                    held[parameter->name()] += parameter->local_elements();
                    elements[parameter->name()] =
                        parameter->shape().elements() * (parameter->is_whole() ? ranks : 1);
                    EXPECT_EQ(parameter->gradient_is_partial(), ranks > 1 && parameter->is_whole())
                        << parameter->name();
                }
            }
            EXPECT_EQ(held, elements);
        }
}

/// A sum over the group of what a rank owns of a norm or a bias needs that.
TEST(PlannedLayout, WhatAllHoldLiesInTheSamePlacesOfEachRanksBuckets) {
    using parallel::BucketLayout;
    TransformerConfig tied = gpt();
    tied.vocab_size = 257;  // parts of 129 and 128 rows of 24 elements: 4 blocks and 3
    TransformerConfig untied = tied;
    untied.tied_head = false;
    for (const TransformerConfig& config : {tied, untied})
        for (const int64_t bucket_bytes : {4096, 16384}) {
            std::vector<std::vector<BucketLayout::Piece>> pieces;
            std::vector<int64_t> blocks;
            for (int rank = 0; rank < 2; ++rank) {
                Transformer model(config, parallel::PlannedLayout(
                                              core::models::transformer_plan(config), rank, 2));
                const auto parameters = model.parameters().all();
                const BucketLayout layout(parameters, bucket_bytes);
                std::vector<BucketLayout::Piece>& own = pieces.emplace_back();
                for (core::Parameter* parameter : parameters)
                    for (int owner = 0; owner < 3 && parameter->is_whole(); ++owner)
                        for (const auto& piece : layout.owned(*parameter, 0, owner, 3))
                            own.push_back(piece);
                for (size_t b = 0; b < layout.buckets(); ++b)
                    EXPECT_FALSE(layout.label(b).empty()) << b;
                const core::Parameter& table = *model.parameters().find("embedding.tokens.weight");
                blocks.push_back((table.local_elements() + 1023) / 1024);
            }
            EXPECT_NE(blocks[0], blocks[1]) << "else the places would be the same anyway";
            ASSERT_EQ(pieces[0].size(), pieces[1].size());
            for (size_t i = 0; i < pieces[0].size(); ++i) {
                EXPECT_EQ(pieces[0][i].flat, pieces[1][i].flat) << i;
                EXPECT_EQ(pieces[0][i].range.begin, pieces[1][i].range.begin) << i;
                EXPECT_EQ(pieces[0][i].bucket, pieces[1][i].bucket) << i;
            }
        }
}

TEST(PlannedLayout, SharesRowsAsEvenlyAsWholeRowsCanBe) {
    for (const int64_t extent : {4, 5, 7, 257})
        for (const int size : {1, 2, 3, 4}) {
            int64_t at = 0;
            for (int rank = 0; rank < size; ++rank) {
                const parallel::RowShare share = parallel::row_share(extent, rank, size);
                EXPECT_EQ(share.begin, at);
                EXPECT_EQ(share.count, extent / size + (rank < extent % size ? 1 : 0));
                at += share.count;
            }
            EXPECT_EQ(at, extent);
        }
}

TEST(PlannedLayout, AModuleWithoutARowIsNamed) {
    const parallel::PlannedLayout layout({{"known", Placement::column}}, 0, 2);
    core::nn::ParameterSet set;
    expect_error(
        ErrorKind::internal,
        [&] {
            (Declaration(set, layout) / "unknown").weight({4, 4}, core::Init::zeros());
        },
        "unknown", "no row");
    expect_error(
        ErrorKind::internal,
        [&] {
            (Declaration(set, layout) / "known").weight({5, 4}, core::Init::zeros());
        },
        "known.weight", "5");
}

TEST(TensorLayout, TrainsOnSlicesOnly) {
    const ModuleCase c = mlp_case(gpt(), "mlp");
    expect_error(
        ErrorKind::internal,
        [&] {
            parallel::run_as_threads(2, [&](parallel::Communicator& group) {
                Surroundings here(1);
                const Declared mlp = c.declare(parallel::TensorLayout(c.plan, group));
                auto masters = core::optim::materialize(mlp.parameters->all(), here.allocator);
                core::Tape tape;
                const core::Scope scope(here.settings(&tape));
                mlp.run(Tensor::of(std::vector<float>(8 * width), {1, 8, width}, here.allocator),
                        Batch{});
            });
        },
        "blocks.0.mlp.up", "slices");
}

}  // namespace
}  // namespace plinth::test
