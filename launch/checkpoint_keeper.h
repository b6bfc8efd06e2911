// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "checkpoints/reader.h"
#include "checkpoints/restore.h"
#include "checkpoints/writer.h"
#include "core/data/tokenizer.h"
#include "launch/session.h"
#include "launch/training_state.h"

namespace plinth::launch {

/// What every checkpoint of a run holds beside its state.
struct RunDescription {
    std::string configuration;                 ///< the resolved RunConfig, as text
    std::map<std::string, std::string> blobs;  ///< more text, by name
    core::data::TokenizerFiles tokenizer;
    std::vector<checkpoints::MeshAxis> mesh;  ///< fastest axis first
};

/// True if a run saves from a copy of its state, in memory taken at its start, while it trains on.
bool saves_beside_training(const CheckpointSection& config);

/// Decides when to save, saves in the background, and reads back. Before a save and before its
/// commit it asks whether the session still holds the locks of the job's folders: a job that has
/// lost one ends with an error of kind io on all ranks, and commits nothing more.
class CheckpointKeeper {
  public:
    /// `tensors` must stay where they are. `description` is stored beside the state.
    CheckpointKeeper(const CheckpointSection& config, Session& session,
                     std::vector<core::StateTensor> tensors, RunDescription description);

    /// Collective. Fills tensors and state from the newest sound checkpoint of the run; false if
    /// there is none. `accept` sees the manifest of what is restored
    /// first, the same on every rank, and may refuse it.
    bool resume(TrainingState& state,
                const std::function<void(const checkpoints::Manifest&)>& accept);

    /// Collective. Takes the memory that saves beside the training will need.
    void reserve();

    /// True when the clock, as the ranks agreed in the last step, says so, or when a multiple of
    /// checkpoint.every has been reached since the last save began: a save that was put off stays
    /// due.
    bool is_due(const TrainingState& state) const;
    /// This rank's wish by the clock; the loop agrees on it in its scalar reduction.
    bool wants_save() const;
    void agree(bool any_wants) { time_due_ = any_wants; }

    /// Collective. Starts a save of the state as it is now, after finishing the one under way.
    void save(const TrainingState& state);
    /// Before tensors change: waits until the save under way has copied them.
    void before_update();
    checkpoints::SaveState local_state() const { return writer_.local_state(); }
    /// Collective, with the sum of all local states.
    void advance(const checkpoints::SaveState& total);
    /// Collective. Waits for the save under way, if there is one, and the retention after it.
    void settle();
    /// Collective. Saves the state if it is not saved yet and waits for the commit; a failure is an
    /// error of kind io.
    void finish(const TrainingState& state);

    /// Step of the newest checkpoint that this process resumed from or committed; -1: none.
    int64_t last_saved_step() const { return last_saved_step_; }
    /// From begin to the end of retention, of this process's saves; 0 before the first.
    double longest_save_seconds() const { return longest_save_seconds_; }
    /// How long the training thread has stood still for saves so far.
    double blocked_seconds() const { return blocked_seconds_; }

  private:
    checkpoints::SaveRequest request(const TrainingState& state) const;
    /// Collective.
    void report(const checkpoints::SaveOutcome& outcome);
    void count_seconds();
    /// `began`: session seconds at which the training thread came here for a save.
    void count_blocked(double began) { blocked_seconds_ += session_.seconds() - began; }

    CheckpointSection config_;
    Session& session_;
    std::vector<core::StateTensor> tensors_;
    RunDescription description_;
    checkpoints::Writer writer_;
    int64_t last_started_step_ = -1;
    int64_t last_saved_step_ = -1;
    double last_save_seconds_ = 0.0;
    double longest_save_seconds_ = 0.0;
    double blocked_seconds_ = 0.0;
    bool time_due_ = false;
};

/// How tensors are read on behalf of a session: the bytes that come are progress of this rank.
checkpoints::LoadOptions load_options(Session& session, bool subset);

/// The checkpoint that a path names: a checkpoint folder, a folder of checkpoints, or a run folder.
checkpoints::Checkpoint open_checkpoint(const std::string& path, Session& session);
/// Collective. The same, as rank 0 finds it: the ranks agree also while a run writes newer ones.
checkpoints::Checkpoint open_checkpoint_together(const std::string& path, Session& session);

}  // namespace plinth::launch
