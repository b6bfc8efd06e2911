// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/nn/declaration.h"
#include "core/nn/plan.h"
#include "parallel/comm/communicator.h"

namespace plinth::test {

/// A module as it was declared with some layout, and how to run it on the batch's slice of x.
struct Declared {
    std::shared_ptr<void> owner;
    core::nn::ParameterSet* parameters = nullptr;
    std::function<core::Tensor(const core::Tensor& x, const core::Batch& batch)> run;
    bool takes_x = true;      ///< false: x is not used
    bool gives_loss = false;  ///< f64 [1], the same on every rank
};

struct ModuleCase {
    std::string name;
    core::nn::Plan plan;
    std::function<Declared(const core::nn::Layout&)> declare;
    int64_t width = 0;  ///< of x and y
};

/// What running a module forwards and backwards gives, put together from all ranks.
struct ModuleResult {
    std::vector<double> y, dx;                            ///< [B, T, width]
    std::map<std::string, std::vector<double>> dweights;  ///< global
};

struct ModuleRun {
    DType dtype = DType::f32;
    bool remake = false;
    bool remake_hidden = false;  ///< with remake
    /// What stands in for a rank's group; empty for the group itself.
    std::function<std::unique_ptr<parallel::Communicator>(parallel::Communicator&)> wrap = {};
    /// What stands in for the layout.
    std::function<std::unique_ptr<core::nn::Layout>(const core::nn::Layout&)> wrap_layout = {};
};

/// On one rank without a layout if `ranks` is 1, else as a tensor group of thread ranks. Weights,
/// x, dy and the batch (3 samples of 8 tokens, documents of 5 and 3) are functions of names and
/// global places.
ModuleResult run_module(const ModuleCase& c, int ranks, const ModuleRun& how = {});

/// Largest distance of the results, relative to the largest absolute value of each tensor.
double distance(const ModuleResult& a, const ModuleResult& b);

}  // namespace plinth::test
