// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/models/transformer_config.h"
#include "core/nn/plan.h"

namespace plinth::core::models {

/// How the ranks of a tensor group share a transformer (Shoeybi et al. 2019, "Megatron-LM", with
/// the sequence parallel parts of Korthikanti et al. 2022): heads and hidden features are cut
/// between the two products of attention and MLP, the vocabulary of table and head by ids.
nn::Plan transformer_plan(const TransformerConfig& config);

/// The same for a classifier on its trunk: every rank has the whole head.
nn::Plan classifier_plan(const TransformerConfig& trunk);

}  // namespace plinth::core::models
