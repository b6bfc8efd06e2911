// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "parallel/comm/communicator.h"

namespace plinth::parallel {

/// What a rank may tell the others once a step.
enum class Flag {
    stop,           ///< a signal or the time limit: all save and leave
    save,           ///< a checkpoint is wanted
    save_finished,  ///< this rank's part of the asynchronous save is on disk
    save_failed,    ///< this rank's part could not be written
    algorithms,     ///< of its device's products, which the other ranks do not know
    count           ///< number of flags
};

/// The scalars of one step, agreed by one exact reduction: losses by slot, token weight, flags,
/// step times. Every rank sees the same bits, for every number of ranks: a loss is written by one
/// rank, travels as its bit pattern, and all add the losses in slot order.
class StepScalars {
  public:
    explicit StepScalars(int64_t slots, const Communicator& communicator);

    /// Loss sum and integer weight (its number of target tokens) of one of this rank's slots, and
    /// the sum of its z-loss terms.
    void set_slot(int64_t slot, double loss_sum, int64_t weight, double z_loss_sum = 0.0);
    /// Adds to the tokens that this rank computed.
    void add_tokens(int64_t tokens) { tokens_ += tokens; }
    void raise(Flag flag) { flags_[static_cast<size_t>(flag)] = 1; }
    /// How long this rank computed, without waiting for others.
    void set_busy_seconds(double seconds) { busy_seconds_ = seconds; }

    /// Collective. A slot that no rank or two ranks have set is an internal error.
    void reduce(Communicator& communicator);

    /// After reduce:
    double loss_sum() const { return loss_sum_; }
    double z_loss_sum() const { return z_loss_sum_; }
    int64_t weight() const { return weight_; }
    int64_t tokens() const { return tokens_; }  ///< of all ranks
    /// Number of ranks that raised it.
    int64_t raised(Flag flag) const { return flags_[static_cast<size_t>(flag)]; }
    int busiest_rank() const;
    int idlest_rank() const;
    double busy_seconds(int rank) const { return busy_[static_cast<size_t>(rank)]; }

  private:
    struct Slot {
        double loss = 0.0;
        double z_loss = 0.0;
        int64_t times = 0;
    };
    int rank_;
    std::vector<Slot> slots_;
    int64_t weight_ = 0;
    int64_t tokens_ = 0;
    double loss_sum_ = 0.0;
    double z_loss_sum_ = 0.0;
    double busy_seconds_ = 0.0;
    std::vector<double> busy_;
    std::array<int64_t, static_cast<size_t>(Flag::count)> flags_{};
};

}  // namespace plinth::parallel
