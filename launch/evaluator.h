// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>

#include "core/models/model.h"
#include "launch/forward_passes.h"
#include "launch/metrics/sink.h"
#include "launch/overfitting.h"
#include "launch/session.h"
#include "launch/training_data.h"
#include "parallel/comm/groups.h"

namespace plinth::launch {

/// Loss on held-out windows during training, shared among the ranks: the same bits for any number
/// of them. Warns, with numbers, when the training loss falls while the held-out loss rises.
class Evaluator {
  public:
    Evaluator(const RunConfig& config, Session& session, const parallel::Groups& groups,
              core::models::Model& model, const TrainingData& data);

    /// Every train.eval_every steps and after the last one.
    bool is_due(int64_t steps_done) const;
    /// Collective. `training_loss` is the mean since the last evaluation.
    EvaluationRecord evaluate(int64_t steps_done, int64_t samples,
                              std::optional<double> training_loss);

  private:
    const RunConfig& config_;
    Session& session_;
    const TrainingData& data_;
    ForwardPasses passes_;
    const int64_t last_step_;
    OverfittingWatch overfitting_;
};

}  // namespace plinth::launch
