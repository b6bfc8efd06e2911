// SPDX-License-Identifier: Apache-2.0
// AdamW over parameters, its storage, and the gradient norm (their kernels: tests/unit/ops).
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <map>

#include "core/optim/adamw.h"
#include "core/optim/grad_norm.h"
#include "core/tensor/shard_runs.h"
#include "tests/support/expect_error.h"
#include "tests/support/surroundings.h"
#include "tests/support/thread_ranks.h"

namespace plinth::test {
namespace {

using core::Parameter;
using core::optim::AdamW;
using core::optim::FlatTensors;
using core::optim::ParameterGradient;

class OptimizerTest : public testing::Test {
  protected:
    std::vector<ParameterGradient> gradients() {
        return {{&bias_, bias_gradient_.out()}, {&weight_, weight_gradient_.out()}};
    }

    double norm(std::span<const ParameterGradient> mine) {
        core::SelfRanks alone;
        return core::optim::gradient_norm(mine, alone, around_.allocator, around_.stream);
    }

    Surroundings around_;
    Parameter weight_{{.name = "w", .shape = {3, 500}, .init = {}, .decay = true}};
    Parameter bias_{{.name = "b", .shape = {2}, .init = {}, .decay = false}};
    std::vector<Parameter*> parameters_{&weight_, &bias_};
    core::Tensor weight_gradient_ =
        core::Tensor::of(std::vector<float>(1500, 0.0f), {3, 500}, around_.allocator);
    core::Tensor bias_gradient_ = around_.tensor({3.0f, -4.0f});
};

TEST_F(OptimizerTest, FlatTensorsBeginOnBoundariesAndAreZero) {
    FlatTensors tensors(parameters_, around_.allocator);
    ASSERT_EQ(tensors.size(), 2u);
    const float* weight = tensors[0].data<float>();
    const float* bias = tensors[1].data<float>();
    EXPECT_EQ(bias - weight, 2048) << "1,500 elements take two blocks of 1,024";
    EXPECT_EQ(tensors[0].shape(), (Shape{3, 500}));
    EXPECT_EQ(tensors[1].storage()->bytes(), (2048u + 1024u) * sizeof(float));
    for (int64_t i = 0; i < 3072; ++i)
        ASSERT_EQ(weight[i], 0.0f) << i;
}

TEST_F(OptimizerTest, MastersHaveRoomForPaddedRowsThatNoStateHas) {
    core::Parameter table({.name = "table", .shape = {3, 500}, .init = {}, .row_multiple = 8});
    core::Parameter* both[] = {&table, &bias_};
    FlatTensors masters = core::optim::materialize(both, around_.allocator);
    EXPECT_EQ(bias_.master().data<float>() - table.master().data<float>(), 4096)
        << "8 rows of 500 take four blocks of 1,024";
    for (const float value : table.padded(table.master()).values<float>())
        ASSERT_EQ(value, 0.0f);
    AdamW optimizer(both, {}, around_.allocator);
    for (const auto& states : {masters.state(""), optimizer.state()}) {
        EXPECT_TRUE(states[0].shard.is_whole());
        EXPECT_EQ(states[0].bytes(), 1500 * sizeof(float));
    }
}

TEST_F(OptimizerTest, StateHasNamesAndPointsAtTheMoments) {
    FlatTensors masters = core::optim::materialize(parameters_, around_.allocator);
    AdamW optimizer(parameters_, {}, around_.allocator);
    const auto state = optimizer.state();
    ASSERT_EQ(state.size(), 4u);
    const std::vector<std::string> names{"optimizer.m.w", "optimizer.m.b", "optimizer.v.w",
                                         "optimizer.v.b"};
    for (size_t i = 0; i < 4; ++i) {
        EXPECT_EQ(state[i].name, names[i]);
        EXPECT_TRUE(state[i].shard.is_whole());
        EXPECT_EQ(state[i].shard.global_shape, parameters_[i % 2]->shape());
    }
    optimizer.step(gradients(), {.learning_rate = 0.1}, around_.stream);
    EXPECT_FLOAT_EQ(static_cast<const float*>(state[1].data)[0], 0.1f * 3.0f);
    EXPECT_FLOAT_EQ(static_cast<const float*>(state[3].data)[1], 0.05f * 16.0f);
    EXPECT_EQ(masters[1].storage(), bias_.master().storage());
}

/// Moments by the place of their elements in a matrix of 5 rows of 500; `nobody` where none is
/// held.
using Moments = std::map<std::string, std::vector<float>>;
constexpr float nobody = 1e9f;

/// A box of that matrix, as a tensor group cuts its columns or rows.
core::Shard box_of(int64_t row, int64_t column, int64_t rows, int64_t columns) {
    return {.global_shape = {5, 500},
            .offset = {row, column},
            .local_shape = {rows, columns},
            .begin = 0,
            .end = rows * columns};
}

/// Calls body(place in the matrix, element of the piece) for each element of a piece of a parameter
/// whose first element has the place `first`.
void for_places(const core::Shard& piece, int64_t first,
                const std::function<void(size_t place, int64_t element)>& body) {
    core::Runs runs(piece);
    for (core::Run run; runs.next(run);)
        for (int64_t i = 0; i < run.count; ++i)
            body(static_cast<size_t>(first + run.global + i), run.local + i);
}

/// bf16 moments after three updates, with gradients that are functions of the place.
Moments rounded_moments(Surroundings& around, Parameter& parameter, uint64_t seed,
                        int64_t first = 0) {
    std::vector<Parameter*> parameters{&parameter};
    FlatTensors masters = core::optim::materialize(parameters, around.allocator);
    AdamW optimizer(parameters, {.moments = DType::bf16, .seed = seed}, around.allocator);
    std::vector<float> values;
    for (const core::Shard& box : parameter.boxes())
        for_places(box, first, [&](size_t place, int64_t) {
            values.push_back(static_cast<float>(place * 7919 % 1013) / 1013.0f - 0.4f);
        });
    core::Tensor gradient = around.tensor(values).reshape(parameter.local_shape());
    const std::vector<ParameterGradient> gradients{{&parameter, gradient.out()}};
    for (int update = 0; update < 3; ++update)
        optimizer.step(gradients, {.learning_rate = 0.1, .number = update}, around.stream);
    Moments moments;
    for (const core::StateTensor& piece : optimizer.state()) {
        EXPECT_EQ(piece.dtype, DType::bf16);
        std::vector<float>& all = moments[piece.name];
        all.resize(2500, nobody);
        for_places(piece.shard, first,
                   [&](size_t place, int64_t element) { all[place] = piece.value(element); });
    }
    return moments;
}

/// What of it is held is as in the whole.
bool agrees(const Moments& part, const Moments& whole) {
    size_t held = 0;
    for (const auto& [name, values] : part)
        for (size_t i = 0; i < values.size(); ++i) {
            if (values[i] == nobody) continue;
            ++held;
            if (values[i] != whole.at(name)[i]) return false;
        }
    return held > 0;
}

TEST_F(OptimizerTest, MomentsAreRoundedByTheNumberInTheWholeParameter) {
    const auto of_boxes = [&](const std::vector<core::Shard>& boxes, uint64_t seed = 9) {
        Parameter matrix({.name = "w", .shape = {5, 500}, .init = {}, .decay = true});
        if (!boxes.empty()) matrix.place(boxes);
        return rounded_moments(around_, matrix, seed);
    };
    const Moments whole = of_boxes({});
    EXPECT_TRUE(agrees(of_boxes({box_of(0, 0, 5, 251)}), whole));
    EXPECT_TRUE(agrees(of_boxes({box_of(0, 251, 5, 249)}), whole));
    EXPECT_TRUE(agrees(of_boxes({box_of(0, 0, 1, 500), box_of(3, 0, 2, 500)}), whole));
    EXPECT_FALSE(agrees(of_boxes({}, 8), whole)) << "another seed";
    Parameter other({.name = "v", .shape = {5, 500}, .init = {}, .decay = true});
    EXPECT_NE(rounded_moments(around_, other, 9).at("optimizer.m.v"), whole.at("optimizer.m.w"));
    // The mutant: two rows that number their elements from 0.
    Parameter rows({.name = "w", .shape = {2, 500}, .init = {}, .decay = true});
    EXPECT_FALSE(agrees(rounded_moments(around_, rows, 9, 1500), whole));
}

TEST_F(OptimizerTest, DecaysMatricesOnlyAndCountsUpdates) {
    FlatTensors masters = core::optim::materialize(parameters_, around_.allocator);
    masters[0].data<float>()[7] = 1.0f;
    masters[1].data<float>()[0] = 1.0f;
    bias_gradient_ = around_.tensor({0.0f, 0.0f});
    AdamW optimizer(parameters_, {.weight_decay = 0.5}, around_.allocator);
    const uint64_t version = weight_.version();
    optimizer.step(gradients(), {.learning_rate = 0.1}, around_.stream);
    EXPECT_FLOAT_EQ(masters[0].values<float>()[7], 0.95f);
    EXPECT_EQ(masters[1].values<float>()[0], 1.0f);
    EXPECT_EQ(weight_.version(), version + 1);
    EXPECT_EQ(optimizer.update_count(), 1);
}

TEST_F(OptimizerTest, TheUpdateCountSetsTheBiasCorrection) {
    FlatTensors masters = core::optim::materialize(parameters_, around_.allocator);
    AdamW optimizer(parameters_, {.eps = 0.0}, around_.allocator);
    optimizer.step({gradients()}, {.learning_rate = 0.1}, around_.stream);
    EXPECT_FLOAT_EQ(masters[1].values<float>()[0], -0.1f) << "the first step is one rate long";
    AdamW later(parameters_, {.eps = 0.0}, around_.allocator);
    masters[1].data<float>()[0] = 0.0f;
    later.set_update_count(1'000'000);
    later.step(gradients(), {.learning_rate = 0.1}, around_.stream);
    EXPECT_FLOAT_EQ(masters[1].values<float>()[0],
                    static_cast<float>(-0.1 * 0.1 / std::sqrt(0.05)));
}

TEST_F(OptimizerTest, RefusesMissingGradientsByName) {
    FlatTensors masters = core::optim::materialize(parameters_, around_.allocator);
    AdamW optimizer(parameters_, {}, around_.allocator);
    auto wrong = gradients();
    wrong[1] = wrong[0];
    expect_error(
        ErrorKind::internal, [&] { optimizer.step(wrong, {}, around_.stream); }, "w: no gradient");
    wrong.pop_back();
    expect_error(
        ErrorKind::internal, [&] { optimizer.step(wrong, {}, around_.stream); },
        "1 gradients for 2 parameters");
}

TEST_F(OptimizerTest, GradientNorm) {
    EXPECT_EQ(norm(gradients()), 5.0);
    weight_gradient_.data<float>()[1499] = 12.0f;
    EXPECT_EQ(norm(gradients()), 13.0);
    EXPECT_EQ(norm({}), 0.0);
    weight_gradient_.data<float>()[1499] = 1e30f;  // its square is far beyond fp32
    EXPECT_DOUBLE_EQ(norm(gradients()), static_cast<double>(1e30f));
}

TEST_F(OptimizerTest, GradientNormDoesNotDependOnWhoGivesWhat) {
    float* values = weight_gradient_.data<float>();
    for (int i = 0; i < 1500; ++i)
        values[i] = std::ldexp(1.0f + 0.001f * static_cast<float>(i), i % 60 - 30);
    const double expected = norm(gradients());
    const auto all = gradients();
    const auto over_two = [&](bool drop) {
        ThreadRanks::run(2, [&](core::Ranks& ranks) {
            CachingAllocator allocator(host_memory());
            Stream stream(1);
            const auto mine = std::span(all).subspan(static_cast<size_t>(ranks.rank()), 1);
            const double found = core::optim::gradient_norm(
                drop && ranks.rank() == 1 ? mine.first(0) : mine, ranks, allocator, stream);
            CHECK((found == expected) != drop, "{} and {}", found, expected);
        });
    };
    over_two(false);
    over_two(true);  // the mutant: a rank forgets its part
    values[3] = std::nanf("");
    ThreadRanks::run(2, [&](core::Ranks& ranks) {
        CachingAllocator allocator(host_memory());
        Stream stream(1);
        const auto mine = std::span(all).subspan(static_cast<size_t>(ranks.rank()), 1);
        CHECK(std::isnan(core::optim::gradient_norm(mine, ranks, allocator, stream)),
              "every rank hears of it");
    });
}

TEST_F(OptimizerTest, GradientNormOfAnythingNotFiniteIsNan) {
    for (const float bad : {std::nanf(""), std::numeric_limits<float>::infinity(),
                            -std::numeric_limits<float>::infinity()}) {
        weight_gradient_.data<float>()[700] = bad;
        EXPECT_TRUE(std::isnan(norm(gradients())));
    }
}

}  // namespace
}  // namespace plinth::test
