// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "core/models/transformer.h"
#include "launch/config/run_config.h"
#include "parallel/buckets.h"
#include "parallel/pipeline_parallel/check.h"
#include "parallel/zero/owned_weights.h"

// What falls to one rank: where the plans of memory and of traffic meet. Configurations are
// resolved and validated for a world of `ranks`.
namespace plinth::launch {

bool is_on_gpu(const RunConfig& config);
/// Whether products have 8-bit operands.
bool is_fp8(const RunConfig& config);

/// Of the token table, rows on the tensor rank that holds most.
int64_t vocab_of_rank(const RunConfig& config);

/// Of the logits there, with those behind the vocabulary that a GPU's products want.
int64_t logit_columns(const RunConfig& config);

/// Ranks of a data group.
int64_t data_ranks(const RunConfig& config, int64_t ranks);

/// Of a micro-batch, on one rank of a context group.
int64_t tokens_of_rank(const RunConfig& config);

/// Elements a token of the keys and values that go round a context group.
int64_t passed_keys(const RunConfig& config);

/// Micro-batches of one rank in a step, gaps included.
int micro_batches_of_rank(const RunConfig& config, int64_t ranks);

parallel::ScheduleConfig planned_schedule(const RunConfig& config, int64_t ranks);
parallel::ScheduleReport schedule_report(const RunConfig& config, int64_t ranks);

/// The parts of one stage as a rank of a tensor group declares them: no storage. The first rank
/// holds the most.
core::models::Transformer declared_model(const RunConfig& config, int stage, int tensor_rank = 0);
core::models::Transformer declared_model(const RunConfig& config,
                                         const std::vector<core::models::Parts>& chunks,
                                         int tensor_rank = 0);

/// Whether slots of a lane come one after the other, so that gradients are added to.
bool adds_slots(const RunConfig& config);
/// Whether the head's gradient is a sum over chunks of a micro-batch, which is finished in scratch.
bool sums_chunks_of_head(const RunConfig& config);

/// Parameters of a stage by the reducer that sums their gradients: each cuts buckets and owners for
/// itself.
std::vector<std::vector<core::Parameter*>> parameters_by_reducer(const RunConfig& config,
                                                                 core::models::Transformer& model);

/// Weights as operations read them.
parallel::WeightLayout weight_bytes(const RunConfig& config, const parallel::BucketLayout& layout);

/// What a data-parallel rank owns of one stage.
struct Owned {
    int64_t all = 0;      ///< elements, padding included
    int64_t weights = 0;  ///< of those in units that hold weights
    int64_t bytes = 0;    ///< of these weights as operations read them
};
Owned owned_by(const parallel::BucketLayout& layout, int rank, int64_t ranks,
               const parallel::WeightLayout* bytes = nullptr);

/// What parallel.zero=3 gathers in a micro-batch: the unit that is read and those ahead have
/// memory, and a unit that has it is not gathered.
struct Gathered {
    std::vector<int64_t> times;  ///< by unit
    int64_t at_once = 0;         ///< most bytes
};
Gathered gathered(const RunConfig& config, const std::vector<core::Parameter*>& parameters,
                  const parallel::BucketLayout& layout, const parallel::WeightLayout& bytes);

}  // namespace plinth::launch
