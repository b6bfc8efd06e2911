// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "parallel/pipeline_parallel/schedule.h"

namespace plinth::parallel {

/// Time or operations of a model's parts for one micro-batch, in any unit, forward and backward.
struct PartCosts {
    double embedding = 0.0;
    std::vector<double> blocks;
    double head = 0.0;  ///< final norm, projection to the vocabulary, loss
};

/// Which parts of a model a chunk computes. Stage 0 begins with the embedding, and the last chunk
/// of the last stage ends with the head.
struct StageParts {
    int first_block = 0;
    int blocks = 0;
    bool has_embedding = false;
    bool has_head = false;

    bool operator==(const StageParts&) const = default;
};

/// Contiguous parts for each virtual stage, in model order (index ScheduleConfig::virtual_stage).
/// Each has at least one part. The largest cost of a virtual stage is the smallest possible, since
/// the slowest sets the pace; among such cuts the others are as even as can be, and early stages,
/// which keep the most activations, are the smaller ones. Refuses (kind config) more virtual stages
/// than parts.
std::vector<StageParts> balance_stages(const PartCosts& costs, const ScheduleConfig& schedule);

/// The same from given numbers of blocks for each virtual stage. Refuses (kind config) a list that
/// does not fit the stages or the model's blocks, and a stage without a part.
std::vector<StageParts> given_stages(const std::vector<int>& blocks_of, int blocks,
                                     const ScheduleConfig& schedule);

/// Cost of one virtual stage.
double cost_of(const StageParts& parts, const PartCosts& costs);

}  // namespace plinth::parallel
