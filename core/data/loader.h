// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "core/data/sampler.h"
#include "core/data/source.h"

namespace plinth::core::data {

/// One micro-batch to load: samples [first, first + samples) of the run, counted without skips.
struct MicroBatchRequest {
    int64_t step = 0;
    int64_t slot = 0;
    int64_t first = 0;
    int64_t samples = 0;
    /// Tokens of a row; it divides the sampler's window T, and a sample is cut into T / length
    /// rows. 0: T.
    int64_t length = 0;
};

/// B rows of T tokens, row-major: B = samples x (window / length), T = length; of examples only:
/// T = padded_length of the longest.
struct MicroBatch {
    int64_t step = 0;
    int64_t slot = 0;
    int64_t rows = 0;
    int64_t length = 0;
    std::vector<int32_t> inputs;        ///< [B, T]
    std::vector<int32_t> targets;       ///< [B, T], the token after each input, or kIgnoredTarget
    std::vector<int32_t> positions;     ///< [B, T], from 0 in each row or, with a mask, document
    std::vector<int32_t> document_ids;  ///< [B, T], 0, 1, ... in each row
    /// [B], keys of random numbers: the sample's global number, times rows of a sample plus row.
    std::vector<int64_t> sample_ids;
    std::vector<SampleRef> samples;  ///< where each sample came from
    int64_t loss_tokens = 0;         ///< targets that carry a loss: the integer weight of the loss
};

/// Tokens that rows of padded examples get when the longest of them has `used`: the first of 64,
/// 128, 256, ... that holds them, at most `window`. Doubled, not counted up: each length needs
/// memory of its own, and these together need less than twice that of the window.
int64_t padded_length(int64_t used, int64_t window);

/// Cuts the padding that all rows of a micro-batch of examples share, down to `padded_length`. What
/// is left depends on the micro-batch's samples alone.
void cut_padding(MicroBatch& batch);

struct LoaderConfig {
    int threads = 2;             ///< background readers
    int depth = 16;              ///< micro-batches ready or being read ahead
    bool document_mask = false;  ///< positions and document ids restart at each document
    void validate() const;       ///< errors of kind config
};

/// The next micro-batch this rank will ask for, or none at the end of the run. Called under the
/// loader's lock from its threads, in order, ahead of use: it may depend on the step, never on
/// results.
using NextRequest = std::function<std::optional<MicroBatchRequest>()>;

/// What one rank computes in one step.
struct StepSlots {
    int64_t first = 0;  ///< consumed count at the begin of the step
    int64_t micro_batch = 0;
    int64_t length = 0;
    std::vector<int64_t> slots;  ///< this rank's, in the order they are run; may be empty
};

/// Requests from a plan of steps: slot g holds samples first + g B .. first + (g + 1) B - 1. The
/// plan is asked for step `step`, `step` + 1, ... and returns none at the end.
NextRequest requests_of(std::function<std::optional<StepSlots>(int64_t step)> plan, int64_t step);

/// Reads micro-batches ahead on threads of its own and hands them out in the order of the requests.
/// Only the requested samples are read.
class Loader {
  public:
    /// `sources` in any order; each source of the sampler's current and later blends must be among
    /// them with the recorded content, else an error of kind config names it.
    Loader(const std::vector<std::shared_ptr<const Source>>& sources,
           std::shared_ptr<const Sampler> sampler, LoaderConfig config, NextRequest next_request);
    /// Stops at any time; waits for the reads in progress.
    ~Loader();
    Loader(const Loader&) = delete;
    Loader& operator=(const Loader&) = delete;

    /// Waits for the next micro-batch; none after the last. An error of a reader is thrown here, in
    /// the place of the micro-batch it spoiled, and again by every later call.
    std::optional<MicroBatch> next();

    /// Time that callers of `next` have waited.
    double waited_seconds() const { return waited_seconds_; }

  private:
    struct Cell {
        bool ready = false;
        std::optional<MicroBatch> batch;  ///< none: the end, or an error
        std::exception_ptr error;
    };

    void work();
    MicroBatch load(const MicroBatchRequest& request) const;
    Cell& cell(int64_t ticket) { return ring_[static_cast<size_t>(ticket) % ring_.size()]; }

    std::vector<std::shared_ptr<const Source>> sources_;  ///< by permanent number; null: not needed
    std::shared_ptr<const Sampler> sampler_;
    LoaderConfig config_;
    NextRequest next_request_;

    std::mutex mutex_;
    std::condition_variable space_;
    std::condition_variable ready_;
    std::vector<Cell> ring_;  ///< tickets [taken_, issued_)
    int64_t issued_ = 0;
    int64_t taken_ = 0;
    bool last_issued_ = false;  ///< no request follows
    bool stop_ = false;
    double waited_seconds_ = 0;
    std::vector<std::thread> threads_;
};

}  // namespace plinth::core::data
