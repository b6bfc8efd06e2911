// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "checkpoints/checkpoint.h"
#include "core/models/model.h"
#include "launch/config/load.h"
#include "launch/session.h"
#include "launch/training_data.h"

namespace plinth::launch {

/// Compares what a stage stored in a checkpoint beside the run's configuration: appends changes.
using CompareStage = std::function<void(const checkpoints::Manifest&, std::vector<Change>&)>;

/// Refuses, with an error of kind checkpoint, to go on from a run's own checkpoint with other keys
/// that a resume must find unchanged or with data of another tokenizer; warns of keys after which
/// the run no longer equals an uninterrupted one.
void require_resumable(const checkpoints::Manifest& manifest, const RunConfig& config,
                       const TrainingData& data, const CompareStage& compare,
                       const Session& session);

/// What a stage brings to its run, for a dry run.
struct Beginning {
    const TrainingData& data;
    core::models::Model& declared;  ///< names and shapes; needs no storage
    CompareStage compare = {};
    /// True for a parameter that checkpoint.init does not give. Empty: there is none.
    std::function<bool(const core::Parameter&)> is_new = {};
};

/// Collective. Prints the plan of a run with that data, and how it would begin. What the start of
/// the run would refuse about the checkpoint that it would begin or go on from is refused here,
/// found without reading a weight; a disk that is too small for its checkpoints after the plan is
/// printed, since that is often asked for on another machine.
void print_plan(const RunConfig& config, const Beginning& run, Session& session);

/// Collective. The same of a pretraining run, without hashing a shard or making the model; data
/// sets that do not fit the model or each other are refused, too. Data sets that are not there are
/// a warning, for a run is planned before its data are made.
void print_plan(const RunConfig& config, Session& session);

}  // namespace plinth::launch
