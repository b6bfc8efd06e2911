// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace plinth::core::nn {

/// How the ranks of a tensor group share a module.
enum class Placement {
    replicated,  ///< all hold it and apply it to their tokens or heads: gradients are summed
    alike,       ///< all hold it and do the same with it: gradients are equal
    column,      ///< output features are cut: rows of the weight, and the bias
    row,         ///< input features are cut: columns of the weight; the bias is replicated
    table,       ///< a look-up table cut by rows, as evenly as whole rows can be
    head,        ///< a product with the rows of a table, its outputs kept apart
};

/// One row of the table beside a model.
struct PlanRow {
    std::string path;  ///< of the module; "*" stands for one part: "blocks.*.mlp.up"
    Placement placement = Placement::replicated;
    /// Of `column`: the output features of each thing that the product makes (q, k and v; gate and
    /// up), in order. Every one is cut. Empty: one thing. Of `head`: all its outputs.
    std::vector<int64_t> parts = {};
};
using Plan = std::vector<PlanRow>;

/// The first row that fits; null if there is none.
const PlanRow* find_row(const Plan& plan, std::string_view path);

}  // namespace plinth::core::nn
