// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "core/ops/cross_entropy.h"
#include "core/optim/adamw.h"
#include "kernels/runtime/stream.h"
#include "kernels/step_decision.h"
#include "parallel/comm/communicator.h"

namespace plinth::launch {

/// The outcome of optimizer steps where the device decides it: whether a step updates, and with
/// which clip factor. The host hands out a step's work, of which the sum over ranks is a part, and
/// learns what came of it later, from pinned memory.
///
/// A step: begin_step; add for each micro-batch; end_passes; update. Then, at any time and in
/// order, take.
class StepOutcomes {
  public:
    struct Memory {
        CachingAllocator& steps;     ///< where the stream computes
        CachingAllocator& outcomes;  ///< host memory that its copies reach without waiting
    };
    /// What this rank has of the losses.
    struct Share {
        int64_t parts = 1;     ///< ranks that share the tokens of each slot
        int64_t part = 0;      ///< which of them this one is
        bool is_given = true;  ///< false: another rank gives the losses of its slots
    };
    /// For one that decides with all ranks of `world`, which all call update. World, stream and
    /// allocators must outlive it.
    StepOutcomes(parallel::Communicator& world, const Share& share, Stream& stream,
                 const Memory& memory)
        : world_(world), share_(share), stream_(stream), memory_(memory) {}

    /// From now on the norm and the update are captured and launched again, wherever gradients lie
    /// where they lay before. `arena` is memory of graphs, see MicroBatchGraphs.
    void use_graphs(CachingAllocator& arena) { arena_ = &arena; }

    /// Of all ranks together.
    void begin_step(int64_t slots);
    /// The losses of one of this rank's micro-batches, which the stream has still to compute.
    void add(int64_t slot, const core::ops::Loss& loss);
    /// After the last micro-batch: this rank's device has been busy until here.
    void end_passes();
    /// What an update is made of.
    struct Update {
        std::span<const core::optim::ParameterGradient> squared;  ///< whose norm decides
        std::span<const core::optim::ParameterGradient> gradients;
        double learning_rate = 0.0, clip = 0.0;
        StepNumber number;  ///< of the training step
        /// Of what went into 8 bits, see kernels::decide_step; may be empty.
        ConstView fp8_largest = {};
    };
    /// Collective. Decides, updates, and starts to read the outcome, which is the same on every
    /// rank. At most StepTerms::most_ahead steps before
    /// this one may not have been taken.
    void update(const Update& update, core::optim::AdamW& optimizer);

    /// Of the last update, where the stream has it; see kernels::decide_step.
    ConstView outcome() const { return outcome_.in(); }

    /// By StepWord.
    using Words = std::array<double, kernels::StepWord::count>;
    /// The outcome of the first step that was not taken: if it is there, or after a wait for it.
    /// None where there is no such step.
    std::optional<Words> take(bool waits);
    size_t pending() const { return pending_.size(); }
    /// Updates made so far, for a run that goes on. No step may be pending.
    void set_update_count(int64_t count);

  private:
    struct Pending {
        core::Tensor words;                  ///< in host memory
        std::unique_ptr<DeviceEvent> event;  ///< null: they are there
    };

    struct UpdateGraphs {
        bool has_run = false;
        core::Tensor squares;
        std::unique_ptr<Graph> sum, update;
    };
    void launch(const Update& update, core::optim::AdamW& optimizer);
    void decide(const core::Tensor& squares, const Update& update,
                const core::optim::AdamW& optimizer);
    int64_t* word(int64_t place) { return words_.out().as<int64_t>() + place; }

    parallel::Communicator& world_;
    Share share_;
    Stream& stream_;
    Memory memory_;
    CachingAllocator* arena_ = nullptr;  ///< null: no graphs
    /// By the addresses of gradients, which a changed number of lanes moves.
    std::map<std::vector<const void*>, UpdateGraphs> graphs_;
    kernels::StepWords places_;
    core::Tensor words_;  ///< of the running step, see kernels::StepWords
    core::Tensor once_;   ///< i64 [1], 1
    core::Tensor began_;  ///< i64 [1], a time of the device
    core::Tensor outcome_, terms_;
    std::optional<double> updates_to_write_ = 0.0;
    std::deque<Pending> pending_;
};

}  // namespace plinth::launch
