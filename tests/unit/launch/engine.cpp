// SPDX-License-Identifier: Apache-2.0
// What the engine makes of a step's sums: means, clipping, skipping.
#include "launch/engine.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "parallel/comm/self.h"
#include "tests/unit/launch/engine_runs.h"

namespace plinth::launch::test {
namespace {

/// One step of one rank, as far as its sums.
struct Step {
    explicit Step(double clip) {
        rank.config.optimizer.clip = clip;
        rank.engine.initialize(rank.step.seed);
        rank.engine.run_micro_batches(
            rank.model->phases().front(), rank.plan(), rank.step,
            [this](int64_t slot) { return rank.batch(slot); }, scalars);
        scalars.reduce(world);
        means = rank.engine.means(scalars);
    }
    /// What the update leaves of the state whose names begin so.
    std::vector<float> values(const std::string& prefix) {
        EngineRun run;
        collect(rank, run);
        std::vector<float> all;
        for (const auto& [name, tensor] : run.state)
            if (name.starts_with(prefix)) all.insert(all.end(), tensor.begin(), tensor.end());
        CHECK(!all.empty(), "no state begins with {}", prefix);
        return all;
    }

    parallel::SelfCommunicator world;
    EngineRank rank{tiny_config("gpt/tiny.yaml", {}), world};
    parallel::StepScalars scalars{rank.plan().slots, world};
    StepMeans means;
};

const std::string moment = "optimizer.m.";  // in the first step a fixed part of the gradient used

TEST(Engine, MeansAreSumsOverTheWeight) {
    const Step step(0.0);
    EXPECT_GT(step.scalars.weight(), 1);
    EXPECT_EQ(step.means.weight, static_cast<double>(step.scalars.weight()));
    EXPECT_EQ(step.means.loss, step.scalars.loss_sum() / step.means.weight);
    EXPECT_GT(step.means.gradient_norm, 0.0);
    EXPECT_TRUE(step.means.is_finite());
}

TEST(Engine, ClipsTheMeanGradientToTheLimit) {
    Step free(0.0), above(0.0), half(0.0);
    const double norm = free.means.gradient_norm;
    above.rank.config.optimizer.clip = 1.001 * norm;
    half.rank.config.optimizer.clip = 0.5 * norm;
    for (Step* step : {&free, &above, &half})
        step->rank.engine.update(step->means, 1e-3);
    const std::vector<float> whole = free.values(moment), halves = half.values(moment);
    EXPECT_EQ(above.values(moment), whole);
    double sum = 0.0;
    for (size_t i = 0; i < whole.size(); ++i) {
        EXPECT_EQ(halves[i], 0.5f * whole[i]) << i;
        sum += static_cast<double>(whole[i]) * static_cast<double>(whole[i]);
    }
    const double beta1 = free.rank.config.optimizer.beta1;
    EXPECT_NEAR(std::sqrt(sum), (1.0 - beta1) * norm, 1e-5 * norm);
}

TEST(Engine, AStepThatIsNotFiniteUpdatesNothing) {
    Step step(1.0);
    const std::vector<float> before = step.values("");
    for (double StepMeans::*const what : {&StepMeans::loss, &StepMeans::gradient_norm})
        for (const double value : {std::nan(""), std::numeric_limits<double>::infinity()}) {
            StepMeans means = step.means;
            means.*what = value;
            EXPECT_FALSE(means.is_finite());
            step.rank.engine.update(means, 1e-3);
            EXPECT_EQ(step.values(""), before);
            EXPECT_EQ(step.rank.engine.update_count(), 0);
        }
    step.rank.engine.update(step.means, 1e-3);
    EXPECT_NE(step.values(""), before);
    EXPECT_EQ(step.rank.engine.update_count(), 1);
}

}  // namespace
}  // namespace plinth::launch::test
