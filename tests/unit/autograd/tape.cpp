// SPDX-License-Identifier: Apache-2.0
#include "core/autograd/tape.h"

#include <gtest/gtest.h>

#include <string>

#include "core/ops/add.h"
#include "tests/support/expect_error.h"
#include "tests/support/surroundings.h"

namespace plinth::test {
namespace {

using core::NodeGradients;
using core::SavedTensor;
using core::Tensor;

class TapeTest : public testing::Test {
  protected:
    /// y = factor x, whose backward pass writes the factor to `order`.
    Tensor scaled(const Tensor& x, float factor) {
        Tensor y = times(x, factor);
        tape_.record("scaled", {&x}, {&y}, [this, factor](NodeGradients& gradients) {
            order_.push_back(factor);
            if (gradients.wants_input(0))
                gradients.set_input(0, times(gradients.of_output(0), factor));
        });
        return y;
    }
    Tensor times(const Tensor& x, float factor) {
        std::vector<float> values = x.values<float>();
        for (float& value : values)
            value *= factor;
        return around_.tensor(values);
    }
    Tensor leaf(const std::vector<float>& values) {
        Tensor x = around_.tensor(values);
        tape_.watch(x);
        return x;
    }

    Surroundings around_;
    core::Tape tape_;
    core::Scope scope_{around_.settings(&tape_)};
    std::vector<float> order_;
};

TEST_F(TapeTest, WalksInReverseAndSumsAFanOutInThatOrder) {
    const Tensor x = leaf({1.0f});
    // Three uses of x: their gradients arrive last use first, and this sum depends on its order.
    const Tensor a = scaled(x, 1.0f), b = scaled(x, -0x1p25f), c = scaled(x, 0x1p25f);
    const Tensor y = core::ops::add(core::ops::add(a, b), c);
    const auto gradients = tape_.backward({{y, around_.tensor({1.0f})}}, {&x, 1});
    EXPECT_EQ(order_, (std::vector<float>{0x1p25f, -0x1p25f, 1.0f}));
    EXPECT_EQ(gradients[0].values<float>(), std::vector<float>{1.0f});
    EXPECT_NE((1.0f + -0x1p25f) + 0x1p25f, 1.0f) << "the other order must give another sum";
}

TEST_F(TapeTest, AddsGivenGradientsOfSeveralRoots) {
    const Tensor x = leaf({1.0f, 2.0f});
    const Tensor middle = scaled(x, 3.0f), end = scaled(middle, 5.0f);
    const auto gradients = tape_.backward(
        {{end, around_.tensor({1.0f, 2.0f})}, {middle, around_.tensor({100.0f, 0.0f})}}, {&x, 1});
    EXPECT_EQ(gradients[0].values<float>(), (std::vector<float>{3 * (5 + 100), 3 * 10}));
}

TEST_F(TapeTest, WantedInputsOnly) {
    const Tensor x = leaf({1.0f}), unused = leaf({1.0f});
    const Tensor constant = around_.tensor({7.0f});
    Tensor y = times(x, 1.0f);
    bool wanted[2] = {};
    tape_.record("two", {&x, &constant}, {&y}, [&wanted](NodeGradients& gradients) {
        wanted[0] = gradients.wants_input(0);
        wanted[1] = gradients.wants_input(1);
        gradients.set_input(0, gradients.of_output(0));
        expect_error(
            ErrorKind::internal, [&] { gradients.set_input(1, gradients.of_output(0)); },
            "not wanted");
        expect_error(
            ErrorKind::internal, [&] { gradients.set_input(0, gradients.of_output(0)); }, "twice");
    });
    const std::vector<Tensor> asked{x, unused, constant};
    const auto gradients = tape_.backward({{y, around_.tensor({2.0f})}}, asked);
    EXPECT_TRUE(wanted[0]);
    EXPECT_FALSE(wanted[1]);
    EXPECT_EQ(gradients[0].values<float>(), std::vector<float>{2.0f});
    EXPECT_FALSE(gradients[1].defined()) << "the root does not depend on it";
    EXPECT_FALSE(gradients[2].defined()) << "it is not on the tape";
}

TEST_F(TapeTest, RecordsOnlyWhatNeedsAGradient) {
    const Tensor constant = around_.tensor({1.0f});
    const Tensor y = scaled(constant, 2.0f);
    EXPECT_EQ(tape_.size(), 0u);
    EXPECT_FALSE(y.edge());
    Tensor z = around_.tensor({1.0f});
    int weight_gradients = 0;
    tape_.record(
        "with parameters", {&constant}, {&z},
        [](NodeGradients& gradients) { EXPECT_FALSE(gradients.wants_input(0)); },
        [&weight_gradients](NodeGradients&) { ++weight_gradients; }, /*has_parameters=*/true);
    EXPECT_EQ(tape_.size(), 1u);
    tape_.backward({{z, around_.tensor({1.0f})}});
    EXPECT_EQ(weight_gradients, 1);
}

TEST_F(TapeTest, ANodeThatNoRootReachesDoesNotRun) {
    const Tensor x = leaf({1.0f});
    const Tensor used = scaled(x, 2.0f);
    scaled(x, 3.0f);
    int between = 0;
    tape_.backward({{used, around_.tensor({1.0f})}}, {}, [&between] { ++between; });
    EXPECT_EQ(order_, std::vector<float>{2.0f});
    EXPECT_EQ(between, 2) << "communication is progressed after every node";
}

TEST_F(TapeTest, ATensorOfAnotherTapeIsNoRoot) {
    core::Tape other;
    Tensor x = around_.tensor({1.0f});
    other.watch(x);
    expect_error(
        ErrorKind::internal,
        [&] {
            tape_.backward({{x, around_.tensor({1.0f})}});
        },
        "not on this tape");
}

TEST_F(TapeTest, FreesEachNodeWhenItIsDone) {
    const Tensor x = leaf(std::vector<float>(1024, 1.0f));
    std::vector<size_t> in_use;
    Tensor y = x;
    for (int i = 0; i < 8; ++i) {
        Tensor next = around_.tensor(std::vector<float>(1024, 1.0f));
        tape_.record("keeps", {&y}, {&next},
                     [saved = SavedTensor(next), this, &in_use](NodeGradients& gradients) {
                         saved.get("keeps");
                         in_use.push_back(around_.allocator.use().in_use);
                         gradients.set_input(0, gradients.of_output(0));
                     });
        y = next;
    }
    core::Root root{std::move(y), around_.tensor(std::vector<float>(1024, 1.0f))};
    std::vector<core::Root> roots;
    roots.push_back(std::move(root));
    tape_.backward(std::move(roots));
    ASSERT_EQ(in_use.size(), 8u);
    for (size_t i = 1; i < in_use.size(); ++i)
        EXPECT_EQ(in_use[i], in_use[i - 1] - 4096) << "node " << i;
    EXPECT_EQ(tape_.size(), 0u);
}

TEST_F(TapeTest, WeightHalvesCanBePutOff) {
    const auto run = [this](bool later, std::vector<std::string>& order) {
        core::Tape tape;
        core::Scope scope(around_.settings(&tape));
        Tensor x = around_.tensor({1.0f});
        tape.watch(x);
        Tensor y = x;
        for (const float factor : {2.0f, 3.0f, 5.0f}) {
            Tensor next = times(y, factor);
            tape.record(
                "node", {&y}, {&next},
                [this, factor, &order](NodeGradients& gradients) {
                    order.push_back(fmt::format("input {}", factor));
                    gradients.set_input(0, times(gradients.of_output(0), factor));
                },
                [factor, &order](NodeGradients& gradients) {
                    order.push_back(fmt::format("weight {} of {}", factor,
                                                gradients.of_output(0).data<float>()[0]));
                },
                /*has_parameters=*/true);
            y = next;
        }
        core::WeightHalves halves;
        const auto dx = tape.backward({{y.edge(), around_.tensor({1.0f})}}, {&x, 1}, {},
                                      later ? &halves : nullptr);
        EXPECT_EQ(dx[0].values<float>(), std::vector<float>{30.0f});
        EXPECT_EQ(tape.size(), 0u);
        EXPECT_EQ(halves.size(), later ? 3u : 0u);
        int between = 0;
        halves.run([&between] { ++between; });
        EXPECT_EQ(between, later ? 3 : 0);
        EXPECT_EQ(halves.size(), 0u);
    };
    std::vector<std::string> at_once, put_off;
    run(false, at_once);
    run(true, put_off);
    EXPECT_EQ(at_once, (std::vector<std::string>{"input 5", "weight 5 of 1", "input 3",
                                                 "weight 3 of 5", "input 2", "weight 2 of 15"}));
    EXPECT_EQ(put_off, (std::vector<std::string>{"input 5", "input 3", "input 2", "weight 5 of 1",
                                                 "weight 3 of 5", "weight 2 of 15"}));
}

TEST_F(TapeTest, ASavedTensorThatWasChangedInPlaceIsAnError) {
    Tensor x = around_.tensor({1.0f});
    SavedTensor saved(x), before(x);
    EXPECT_EQ(saved.get("op").values<float>(), std::vector<float>{1.0f});
    EXPECT_EQ(before.take_for_writing("op").values<float>(), std::vector<float>{1.0f});
    x.data<float>()[0] = 2.0f;
    expect_error(
        ErrorKind::internal, [&] { saved.get("gelu"); }, "gelu", "changed in place");
    expect_error(
        ErrorKind::internal, [&] { saved.take_for_writing("gelu"); }, "changed in place");
    EXPECT_FALSE(SavedTensor(Tensor{}).get("op").defined());
}

}  // namespace
}  // namespace plinth::test
