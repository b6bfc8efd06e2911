// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "launch/engine.h"
#include "launch/layouts.h"
#include "parallel/comm/communicator.h"

namespace plinth::launch {

/// What a short training leaves: everything a layout must not change.
struct LayoutRecord {
    struct Tensor {
        std::vector<float> values;  ///< of the global tensor
        std::string problem;        ///< what is wrong with the pieces that ranks hold, or empty
    };
    std::map<std::string, Tensor> start;  ///< master weights before the first step
    std::vector<double> losses;
    std::vector<double> norms;                ///< of the gradient, before clipping
    std::map<std::string, Tensor> gradients;  ///< of the first step: every layout starts alike
    std::map<std::string, Tensor> state;      ///< master weights and moments after the last step
};

/// Places where a test double puts its hand; empty ones change nothing.
struct LayoutDoubles {
    /// Stands in for a rank's world, from which its groups are split.
    std::function<std::unique_ptr<parallel::Communicator>(parallel::Communicator& world)> world =
        {};
    /// On every rank before the first step.
    std::function<void(int rank, core::models::Model& model)> before_training = {};
    /// On every rank after the micro-batches of a step, before the norm.
    std::function<void(int rank, Engine& engine)> after_gradients = {};
    /// On every rank after the optimizer's part of a step.
    std::function<void(int rank, Engine& engine)> after_update = {};
};

/// Trains the language model of a layout for some steps from its seed, each rank a thread of this
/// process, on tokens drawn from the seed: no data set is needed. As a training does, it leaves to
/// the device what a step comes to, where that can decide. An error of a rank is thrown.
LayoutRecord train_layout(const Layout& layout, int64_t steps, const LayoutDoubles& doubles = {});

}  // namespace plinth::launch
