// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <tuple>
#include <vector>

#include "core/autograd/scope.h"
#include "core/models/model.h"
#include "parallel/comm/activity.h"
#include "parallel/comm/communicator.h"
#include "parallel/pipeline_parallel/schedule.h"

namespace plinth::parallel {

/// Where the weight gradients of a stage's chunks go, slot by slot. Each chunk is at its own slot,
/// and each of its two kinds of passes comes in slot order.
class GradientSlots {
  public:
    virtual ~GradientSlots() = default;
    /// Around the forward pass, in which a chunk's `forward_parameters` get their gradients.
    virtual void begin_forward(size_t chunk, int64_t slot) = 0;
    virtual void end_forward(size_t chunk) = 0;
    /// Around the weight half, in which all others get theirs.
    virtual void begin_backward(size_t chunk, int64_t slot) = 0;
    virtual void end_backward(size_t chunk) = 0;
    /// Moves exchanges with other ranks along.
    virtual void progress() = 0;
};

/// The micro-batches of one step of this rank's stage.
struct PipelineStep {
    std::span<const core::models::Chunk> chunks;
    /// By the schedule's number: the slot, or none where a rank of the data group has fewer slots.
    /// Then its stages leave the micro-batch out together.
    std::span<const std::optional<int64_t>> slots;
    /// Of the passes; the runner sets the tape.
    core::Scope::Settings scope;
    /// Asked once for each slot, in order.
    std::function<core::Batch(int64_t slot)> batch;
    /// Called by the last stage.
    std::function<void(int64_t slot, const core::ops::Loss& loss)> on_loss;
    /// Called where all work of a micro-batch on this rank was handed out; may be empty.
    std::function<void()> after_micro_batch = {};
    GradientSlots* gradients = nullptr;  ///< null: forward passes alone
    Activity* activity = nullptr;        ///< learns of forward and backward passes
};

/// Executes this rank's list of a schedule. Messages are started where the list has them and move
/// in the background, between tape nodes too; a pass waits for the tensors that it needs alone.
/// Activations and the records of a pass are freed as soon as its backward pass is done.
class PipelineRunner {
  public:
    /// `schedule.micro_batches` is set by each step. The group's ranks are the stages, and it must
    /// outlive the runner.
    PipelineRunner(const ScheduleConfig& schedule, Communicator& group, CachingAllocator& allocator)
        : config_(schedule), group_(group), allocator_(allocator) {}

    /// Collective over the stages. Throws what the model throws; a rank that throws leaves the
    /// others waiting, as everywhere.
    void run(const PipelineStep& step);

    /// Of the last step: most (micro-batch, chunk) pairs between forward pass and weight half.
    int peak_activations() const { return peak_; }

  private:
    using Tensor = core::Tensor;

    /// What is kept of a micro-batch in a chunk from its forward pass to its weight half.
    struct Flight {
        core::Tape tape;
        /// Of the input: its memory is that of whoever reads it. None in the model's first chunk.
        core::GradientEdge input;
        core::GradientEdge output;
        Shape output_shape;
        core::WeightHalves later;
    };
    /// A tensor on its way; its memory belongs to the communicator until it is there.
    struct Parcel {
        Tensor tensor;
        Pending pending;
    };
    /// Sent tensors that no receiver has taken yet; one more waits for the oldest, which schedules
    /// allow. A stage that needs no answers (evaluation, gpipe) could else run far ahead.
    static constexpr size_t sends_in_flight = 4;
    /// Payload, chunk, micro-batch.
    using Key = std::tuple<Payload, int, int>;

    void act(const Action& action);
    void compute(const Compute& compute);
    void forward(int micro_batch, int chunk);
    void backward(int micro_batch, int chunk, core::WeightHalves* later);
    void weight_half(int micro_batch, int chunk);
    void start_receive(const Message& message);
    void start_send(const Message& message);
    Tensor take(const Key& key);
    const core::Batch& batch_of(int micro_batch);
    void progress();
    void finish_sends();

    bool trains() const { return step_->gradients != nullptr; }
    bool is_left_out(int micro_batch) const {
        return !step_->slots[static_cast<size_t>(micro_batch)].has_value();
    }
    int64_t slot_of(int micro_batch) const {
        return *step_->slots[static_cast<size_t>(micro_batch)];
    }
    const core::models::Chunk& chunk(int number) const {
        return step_->chunks[static_cast<size_t>(number)];
    }
    bool is_first(int chunk) const { return group_.rank() == 0 && chunk == 0; }
    bool is_last(int chunk) const {
        return group_.rank() == config_.stages - 1 && chunk == config_.chunks - 1;
    }
    core::Scope::Settings scope(core::Tape* tape) const;
    /// The same on both sides: the cut that the tensor crosses is an output of this chunk or not.
    std::string label(const Key& key, bool is_output) const;

    ScheduleConfig config_;
    Communicator& group_;
    CachingAllocator& allocator_;
    Schedule schedule_;  ///< of the last step: made again when the number of slots changes

    const PipelineStep* step_ = nullptr;  ///< while it runs
    std::map<int, core::Batch> batches_;
    int next_batch_ = 0;
    std::map<std::pair<int, int>, std::unique_ptr<Flight>> flights_;  ///< by chunk, micro-batch
    std::map<Key, Parcel> incoming_;
    std::map<Key, Tensor> ready_;  ///< made here, to be sent
    std::vector<Parcel> sending_;
    int peak_ = 0;
};

/// A schedule's forward passes and activations alone.
Schedule forward_part(const Schedule& schedule);

}  // namespace plinth::parallel
