// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>

#include "core/data/tokenizer.h"
#include "core/models/transformer.h"
#include "core/optim/parameter_storage.h"
#include "launch/config/run_config.h"
#include "launch/session.h"

namespace plinth::launch {

/// A trained model as later stages take it from a checkpoint: weights and tokenizer, no optimizer.
struct RestoredModel {
    std::string folder;  ///< the checkpoint that was read
    int64_t step = 0;
    RunConfig config;  ///< of the run that wrote it
    std::unique_ptr<core::models::Transformer> model;
    std::shared_ptr<const core::data::Tokenizer> tokenizer;

    /// Collective. `path` is a checkpoint folder or the folder of a run (its newest sound one). All
    /// ranks read the one that rank 0 finds, also while a run writes newer ones. The loss of the
    /// model is the plain cross-entropy: a z-loss of training is left out. Errors are of kind
    /// checkpoint and name the folder.
    static RestoredModel open(const std::string& path, Session& session);

    /// Storage of the weights; the model's parameters point into it.
    std::unique_ptr<core::optim::FlatTensors> weights;
};

}  // namespace plinth::launch
