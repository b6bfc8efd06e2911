// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>

namespace plinth::launch {

/// What is known about one optimizer step when it has ended, the same on every rank.
struct StepRecord {
    int64_t step = 0;  ///< steps done, this one included: the first is 1
    int64_t total_steps = 0;
    int64_t samples = 0;       ///< consumed so far, this step included
    int64_t tokens = 0;        ///< consumed so far
    int64_t global_batch = 0;  ///< samples of this step
    int64_t ranks = 1;
    double wall_time = 0;          ///< seconds since 1970
    double loss = 0;               ///< cross-entropy (no z-loss), mean over the step's tokens, nats
    std::optional<double> z_loss;  ///< what is minimised beside it, weight included; empty: nothing
    double learning_rate = 0;
    double grad_norm = 0;  ///< before clipping
    double step_seconds = 0;
    double tokens_per_second = 0;       ///< of all ranks
    double flops_per_second = 0;        ///< model FLOPs of one rank (model_flops.h)
    std::optional<double> mfu;          ///< of one rank's peak, 0 to 1; empty: the peak is unknown
    int64_t memory_bytes = 0;           ///< most that one rank held at any time
    int64_t reserved_memory_bytes = 0;  ///< most that its allocators had taken from the system
    int64_t cached_memory_bytes = 0;    ///< of what they have now that nobody uses
    int64_t memory_requests = 0, memory_taken = 0;  ///< so far: of their tensors, of the system
    int64_t resident_bytes = 0;        ///< most that this rank's process has had in RAM
    int64_t start_resident_bytes = 0;  ///< that before there was a model
    int64_t skipped_steps = 0;         ///< non-finite ones, since the run began
    double eta_seconds = 0;
    std::optional<double> data_wait_seconds;
    std::optional<double> communication_wait_seconds;
    std::optional<double> save_wait_seconds;     ///< training stood still for a checkpoint
    std::optional<double> slowest_rank_seconds;  ///< compute time of this step
    std::optional<double> fastest_rank_seconds;
};

/// An evaluation on held-out data after `step` steps.
struct EvaluationRecord {
    int64_t step = 0;
    int64_t samples = 0;
    double wall_time = 0;
    double loss = 0;  ///< cross-entropy (no z-loss), nats a token, over held_out_samples
    int64_t held_out_samples = 0;  ///< read for the loss: train.eval_batches micro-batches at most
    int64_t held_out_total = 0;    ///< of all held-out data
    std::optional<double> bits_per_byte;
    std::optional<double> accuracy;  ///< of a classifier, 0 to 1
    std::optional<double> macro_f1;
    double seconds = 0;
};

}  // namespace plinth::launch
