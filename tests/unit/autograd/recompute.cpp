// SPDX-License-Identifier: Apache-2.0
#include "core/autograd/recompute.h"

#include <gtest/gtest.h>

#include <optional>

#include "core/ops/dropout.h"
#include "core/ops/gelu.h"
#include "tests/support/surroundings.h"

namespace plinth::test {
namespace {

using core::Tensor;

struct Result {
    std::vector<float> y, dx;
    size_t nodes = 0;
    int calls = 0;
};

class RecomputeTest : public testing::Test {
  protected:
    Result run(bool recomputed, int64_t step_in_backward = 0) {
        core::Tape tape;
        const core::Scope scope(around_.settings(&tape));
        around_.step.step = 0;
        std::vector<float> values;
        for (int i = 0; i < 777; ++i)
            values.push_back(0.01f * static_cast<float>(i - 300));
        Tensor x = Tensor::of(values, {1, 777}, around_.allocator);
        tape.watch(x);
        const Tensor samples = Tensor::of<int64_t>({5}, {1}, around_.allocator);
        Result result;
        const auto f = [&result, samples](const Tensor& in) {
            ++result.calls;
            return core::ops::dropout(core::ops::gelu(in, kernels::Gelu::tanh), 0.3, "here",
                                      samples);
        };
        const Tensor y = recomputed ? core::recompute(f, x) : f(x);
        result.y = y.values<float>();
        result.nodes = tape.size();
        around_.step.step = step_in_backward;
        result.dx = tape.backward({{y, Tensor::of(values, {1, 777}, around_.allocator)}}, {&x, 1})
                        .front()
                        .values<float>();
        return result;
    }

    Surroundings around_;
};

TEST_F(RecomputeTest, HasTheSameBitsWithDropoutOn) {
    const Result kept = run(false), again = run(true);
    EXPECT_EQ(again.y, kept.y);
    EXPECT_EQ(again.dx, kept.dx);
    EXPECT_EQ(kept.calls, 1);
    EXPECT_EQ(again.calls, 2);
    EXPECT_EQ(kept.nodes, 2u);
    EXPECT_EQ(again.nodes, 1u) << "only the input is kept";
    EXPECT_NE(run(true, 1).dx, kept.dx) << "another mask in the second run must show";
}

TEST_F(RecomputeTest, HandsItsWeightHalvesOn) {
    std::vector<int> order;
    core::Tape tape;
    const core::Scope scope(around_.settings(&tape));
    Tensor x = around_.tensor({1.0f});
    tape.watch(x);
    const Tensor y = core::recompute(
        [&](const Tensor& in) {
            Tensor out = around_.tensor(in.values<float>());
            if (core::Tape* inner = core::Scope::current().tape())
                inner->record(
                    "node", {&in}, {&out},
                    [&](core::NodeGradients& gradients) {
                        order.push_back(1);
                        gradients.set_input(0, gradients.of_output(0));
                    },
                    [&](core::NodeGradients&) { order.push_back(2); }, /*has_parameters=*/true);
            return out;
        },
        x);
    core::WeightHalves later;
    tape.backward({{y, around_.tensor({1.0f})}}, {&x, 1}, {}, &later);
    EXPECT_EQ(order, std::vector<int>{1});
    EXPECT_EQ(later.size(), 1u);
    later.run();
    EXPECT_EQ(order, (std::vector<int>{1, 2}));
}

TEST_F(RecomputeTest, ARecipeIsKeptInsteadOfMemory) {
    const size_t bytes = 1024 * sizeof(float);
    const auto keep = [&](bool with_recipe) {
        Tensor x = around_.tensor(std::vector<float>(1024, 1.5f));
        if (with_recipe)
            x.set_recipe([this] { return around_.tensor(std::vector<float>(1024, 1.5f)); });
        return core::SavedTensor(x);
    };
    for (const bool with_recipe : {false, true}) {
        const size_t before = around_.allocator.use().in_use;
        const core::SavedTensor saved = keep(with_recipe);
        EXPECT_EQ(around_.allocator.use().in_use - before, with_recipe ? 0 : bytes);
        EXPECT_EQ(saved.get("op").values<float>(), std::vector<float>(1024, 1.5f));
    }
}

TEST_F(RecomputeTest, WhatIsMadeOnceStaysUntilItsLastReaderIsDone) {
    const size_t bytes = 1024 * sizeof(float);
    const core::Scope scope(around_.settings());
    int calls = 0;
    std::optional<core::SavedTensor> first, second;
    {
        Tensor x = around_.tensor(std::vector<float>(1024, 1.5f));
        core::remake_once(x, [&] {
            ++calls;
            return around_.tensor(std::vector<float>(1024, 1.5f));
        });
        first.emplace(x);
        second.emplace(x);
    }
    const auto held = [&] { return around_.allocator.use().in_use; };
    const size_t before = held();
    EXPECT_EQ(first->get("op").values<float>(), std::vector<float>(1024, 1.5f));
    EXPECT_EQ(second->get("op").storage(), first->get("op").storage());
    EXPECT_EQ(calls, 1);
    EXPECT_EQ(held() - before, bytes);
    first.reset();
    EXPECT_EQ(held() - before, bytes);
    second.reset();
    EXPECT_EQ(held(), before);
}

TEST_F(RecomputeTest, WhatIsMadeOnceRunsUnrecorded) {
    core::Tape tape;
    const core::Scope scope(around_.settings(&tape));
    Tensor x = around_.tensor({1.0f});
    tape.watch(x);
    bool was_recorded = true;
    Tensor y = around_.tensor({2.0f});
    core::remake_once(y, [&] {
        was_recorded = core::Scope::current().tape() != nullptr;
        return around_.tensor({2.0f});
    });
    core::SavedTensor(y).get("op");
    EXPECT_FALSE(was_recorded);
}

TEST_F(RecomputeTest, ARecipeIsNotThatOfAnotherShapeOrOfChangedElements) {
    Tensor x = around_.tensor(std::vector<float>(8, 1.0f));
    x.set_recipe([this] { return around_.tensor(std::vector<float>(8, 1.0f)); });
    EXPECT_TRUE(x.recipe());
    EXPECT_TRUE(x.detach().recipe());
    EXPECT_FALSE(x.reshape({2, 4}).recipe());
    EXPECT_FALSE(x.rows(0, 4).recipe());
    x.data<float>()[0] = 2.0f;
    EXPECT_FALSE(x.recipe());
}

TEST_F(RecomputeTest, WithoutATapeItIsACall) {
    const core::Scope scope(around_.settings());
    int calls = 0;
    const Tensor x = around_.tensor({1.0f});
    const Tensor y = core::recompute(
        [&calls](const Tensor& in) {
            ++calls;
            return in;
        },
        x);
    EXPECT_EQ(calls, 1);
    EXPECT_EQ(y.storage(), x.storage());
}

}  // namespace
}  // namespace plinth::test
