// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/data/labelled_text.h"
#include "core/data/source.h"
#include "core/data/tokenizer.h"
#include "core/models/classifier.h"
#include "core/optim/parameter_storage.h"
#include "launch/classification_metrics.h"
#include "launch/config/run_config.h"
#include "launch/session.h"
#include "parallel/comm/groups.h"

namespace plinth::launch {

/// A classifier as `plinth finetune` left it in a checkpoint.
struct RestoredClassifier {
    std::string folder;  ///< the checkpoint that was read
    int64_t step = 0;
    /// Of the run that wrote it, but for the layout; data.sequence_length is the longest text, in
    /// tokens.
    RunConfig config;
    std::vector<std::string> labels;  ///< in class order
    std::unique_ptr<parallel::Groups> groups;
    std::unique_ptr<core::models::Classifier> model;
    std::shared_ptr<const core::data::Tokenizer> tokenizer;

    /// Collective. `path` is a checkpoint folder or the folder of a run (its newest sound one). A
    /// checkpoint of something else than a classifier is an error of kind checkpoint. Each rank
    /// reads its part in the layout, which has no stages and is validated for the session's ranks.
    static RestoredClassifier open(const std::string& path, const ParallelSection& parallel,
                                   Session& session);

    /// Storage of the weights; the model's parameters point into it.
    std::unique_ptr<core::optim::FlatTensors> weights;
};

/// How one rank goes through labelled examples.
struct ClassifyOptions {
    int64_t window = 0;  ///< tokens of the longest example
    int64_t micro_batch = 8;
    DType dtype = DType::f32;
    const parallel::Groups& groups;  ///< of the ranks that hold the model together
};

/// Collective. The true and the predicted classes of all examples, which the ranks share; the same
/// on every rank. The class with the largest logit is predicted; ties go to the lower one.
Confusion classify(const core::models::Classifier& model, const core::data::Source& examples,
                   const ClassifyOptions& options, Session& session);
/// The same for labelled texts. A label that the model does not know is an error of kind data.
Confusion classify(const RestoredClassifier& classifier,
                   const std::vector<core::data::TextPair>& pairs, const ClassifyOptions& options,
                   Session& session);

}  // namespace plinth::launch
