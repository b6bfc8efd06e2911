// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "core/nn/batch.h"
#include "core/nn/declaration.h"
#include "core/ops/cross_entropy.h"

namespace plinth::core::models {

/// One loss and the parameters that it drives. A transformer has one phase, a GAN two; the training
/// loop iterates phases.
struct Phase {
    std::string name;
    /// Sum of the losses of a micro-batch, and the integer weight (tokens) that the step divides
    /// by.
    std::function<ops::Loss(const Batch&)> loss;
    std::vector<Parameter*> parameters;
};

/// A trainable model, built by declaring parameters; it knows no rank.
class Model {
  public:
    virtual ~Model() = default;
    virtual nn::ParameterSet& parameters() = 0;
    virtual std::vector<Phase> phases() = 0;
};

}  // namespace plinth::core::models
