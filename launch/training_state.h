// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "checkpoints/checkpoint.h"
#include "core/autograd/scope.h"
#include "core/data/sampler.h"
#include "core/nn/declaration.h"
#include "core/optim/parameter_storage.h"

namespace plinth::launch {

/// All that a training run changes from step to step besides tensors. What a checkpoint's counters
/// and blobs hold.
struct TrainingState {
    std::string run_id;
    core::StepState step;  ///< step: steps done
    int64_t consumed_tokens = 0;
    int64_t skipped_steps = 0;  ///< non-finite ones
    core::data::SamplerState sampler;
    /// What products on GPUs take of their library, see MatmulAlgorithms::text; empty where none
    /// has run yet.
    std::string matmul_algorithms;
    /// See core::Fp8History::text; empty without train.fp8=delayed.
    std::string fp8_history;

    int64_t steps_done() const { return step.step; }
    int64_t consumed_samples() const { return sampler.consumed; }

    /// Into the manifest's counters and blobs, and back; `where` names the checkpoint in errors.
    void store(checkpoints::Manifest& manifest) const;
    void restore(const checkpoints::Manifest& manifest, const std::string& where);
};

/// The name of a parameter's master weights in checkpoints.
std::string weight_name(const core::Parameter& parameter);
/// True for the name of a moment of the optimizer in checkpoints: a resume may keep moments in
/// another dtype.
bool is_moment(const std::string& name);
/// The master weights of parameters that have their own storage, as model.NAME.
std::vector<core::StateTensor> state_tensors(const std::vector<core::Parameter*>& parameters);

}  // namespace plinth::launch
