// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/autograd/delayed_scaling.h"
#include "core/models/model.h"
#include "launch/session.h"

namespace plinth::launch {

/// What train.fp8 adds to a training: where 8-bit tensors get their scales, and what is carried
/// from step to step for it.
class Fp8State {
  public:
    /// Collective. Session, model and `weights`, the memory of 8-bit weights, must outlive it. An
    /// error of kind config on a GPU without 8-bit matrix units.
    Fp8State(const RunConfig& config, Session& session, core::models::Model& model,
             CachingAllocator& weights);

    /// For the scope of training passes; null: no 8-bit products.
    core::Fp8Source* source() { return scaling_.get(); }
    void begin_step();
    /// Collective. Takes the largest magnitudes of the step's tensors together, over all ranks.
    /// False if one is not finite: a scale of the past hides that in 8 bits.
    bool end_step();
    /// The step has changed the weights: what it saw counts from the next one on.
    void updated();

    /// For checkpoints; empty where there is no history.
    std::string history_text() const;
    /// `where` names the checkpoint in errors. An empty text is no history.
    void restore(const std::string& text, const std::string& where);

  private:
    Session& session_;
    std::unique_ptr<core::CurrentScaling> scaling_;
    core::DelayedScaling* delayed_ = nullptr;  ///< the same, where it is delayed
    std::vector<float> seen_;                  ///< in this step, over all ranks
};

}  // namespace plinth::launch
