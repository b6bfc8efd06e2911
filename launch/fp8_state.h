// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>

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
    /// True where graphs of this step's products must be launched in such steps only; see
    /// core::DelayedScaling::all_are_known.
    bool scales_are_known() const { return delayed_ && delayed_->all_are_known(); }
    /// Collective. Takes the largest magnitudes of the step's tensors together, over all ranks, in
    /// the stream's order. Gives the bits of the largest of them all, i64 [1], where the stream has
    /// them: kernels::fp8_not_finite or more if one is not finite, which a scale of the past hides
    /// in 8 bits. Empty without delayed scaling.
    ConstView end_step();
    /// What the step saw counts from the next one on, if the outcome says that it updates
    /// (kernels::decide_step's; left out: it does). At most once after `end_step`.
    void updated(ConstView outcome = {});

    /// For checkpoints; empty where there is no history. Waits for the stream.
    std::string history_text() const;
    /// `where` names the checkpoint in errors. An empty text is no history.
    void restore(const std::string& text, const std::string& where);

  private:
    Session& session_;
    std::unique_ptr<core::CurrentScaling> scaling_;
    core::DelayedScaling* delayed_ = nullptr;  ///< the same, where it is delayed
    bool has_seen_ = false;                    ///< a step that has ended, and is not pushed
};

}  // namespace plinth::launch
