// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>

#include "checkpoints/reader.h"
#include "core/data/tokenizer.h"
#include "core/models/transformer.h"
#include "core/optim/parameter_storage.h"
#include "launch/config/run_config.h"
#include "launch/session.h"
#include "parallel/comm/groups.h"

namespace plinth::launch {

/// The tokenizer that a checkpoint holds. None, or one with more tokens than the model has, is an
/// error of kind checkpoint.
std::shared_ptr<const core::data::Tokenizer> checkpoint_tokenizer(
    const checkpoints::Checkpoint& checkpoint, int64_t vocab_size);

/// The configuration of the run that wrote a checkpoint, in the layout of this stage, which is
/// validated for as many ranks. One that cannot share the model is an error of kind config by key.
RunConfig config_in_layout(const checkpoints::Checkpoint& checkpoint,
                           const ParallelSection& parallel);

/// Collective. Gives the model storage, which is returned, and fills its weights from the
/// checkpoint.
std::unique_ptr<core::optim::FlatTensors> restore_weights(core::models::Model& model,
                                                          const checkpoints::Checkpoint& checkpoint,
                                                          Session& session);

/// A trained model as later stages take it from a checkpoint: weights and tokenizer, no optimizer.
/// Each rank has its part of it in the layout of the stage.
struct RestoredModel {
    std::string folder;  ///< the checkpoint that was read
    int64_t step = 0;
    RunConfig config;  ///< of the run that wrote it, but for the layout
    std::unique_ptr<parallel::Groups> groups;
    std::unique_ptr<core::models::Transformer> model;
    std::shared_ptr<const core::data::Tokenizer> tokenizer;

    /// Collective. `path` is a checkpoint folder or the folder of a run (its newest sound one). All
    /// ranks read the one that rank 0 finds, also while a run writes newer ones, each its own part.
    /// The loss of the model is the plain cross-entropy: a z-loss of training is left out.
    /// `parallel` is validated for the session's ranks. Errors are of kind checkpoint and name the
    /// folder; of kind config where the layout does not fit the model.
    static RestoredModel open(const std::string& path, const ParallelSection& parallel,
                              Session& session);

    /// Storage of the weights; the model's parameters point into it.
    std::unique_ptr<core::optim::FlatTensors> weights;
};

}  // namespace plinth::launch
