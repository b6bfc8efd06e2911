// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <vector>

#include "core/nn/declaration.h"
#include "tests/numerics/golden_file.h"
#include "tests/support/golden_values.h"

namespace plinth::test {

/// What must not change the result, or only by rounding.
struct TrainingSetup {
    int threads = 2;
    int64_t micro_batch = 1;  ///< divides the golden batch into slots
    int64_t lanes = 1;
    bool recompute = false;
    bool remake = false;         ///< recompute norms and activation functions only
    bool remake_hidden = false;  ///< with `remake`: the MLPs' hidden layers, too
    DType compute = DType::f32;
    double dropout = 0.0;
    bool on_device = false;  ///< cuda:0, in reproducible mode; mutants that touch weights cannot
};

/// What must change the result: places where a mutant puts its hand. Empty ones change nothing.
struct Mutant {
    std::function<void(GoldenModel&)> configuration;
    std::function<void(GoldenBatch&)> batch;
    std::function<void(core::nn::ParameterSet&)> start;  ///< after the weights are set
    /// In each micro-batch between its forward and its backward pass.
    std::function<void(core::nn::ParameterSet&)> turn;
    /// After each update, which had that learning rate.
    std::function<void(core::nn::ParameterSet&, double)> update;
};

struct TrainingResult {
    TrainingFacts facts;
    /// Losses, norms and all final master weights, for a comparison of bits.
    std::vector<double> scalars;
    std::vector<float> weights;
};

/// Trains as the program does (tape, LaneReducer in a world of one, gradient norm, AdamW) for the
/// steps of the golden file, from golden_weight and on golden_batch.
TrainingResult train(GoldenModel golden, const TrainingSetup& setup = {},
                     const Mutant& mutant = {});

}  // namespace plinth::test
