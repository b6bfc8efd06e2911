// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "core/models/classifier.h"
#include "core/models/transformer.h"
#include "core/models/transformer_plan.h"
#include "core/optim/parameter_storage.h"
#include "parallel/comm/threads.h"
#include "parallel/tensor_parallel/tensor_layout.h"
#include "tests/support/altered_group.h"
#include "tests/support/expect_error.h"
#include "tests/support/surroundings.h"
#include "tests/unit/parallel/shared_module.h"
#include "tests/unit/parallel/tensor_models.h"

namespace plinth::test {
namespace {

using core::Batch;
using core::Tensor;
using core::models::Transformer;
using core::nn::Declaration;
using core::nn::Layout;
using Positions = TransformerConfig::Positions;

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
    for (const ModuleCase& c : cases()) {
        const ModuleResult kept = run_module(c, 2);
        EXPECT_EQ(distance(run_module(c, 2, {.remake = true}), kept), 0.0) << c.name;
        EXPECT_EQ(distance(run_module(c, 2, {.remake = true, .remake_hidden = true}), kept), 0.0)
            << c.name;
    }
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
