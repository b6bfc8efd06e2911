// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "checkpoints/checkpoint.h"
#include "checkpoints/failure.h"
#include "checkpoints/format.h"
#include "checkpoints/plan.h"
#include "checkpoints/retention.h"
#include "checkpoints/staging.h"
#include "core/io/file.h"
#include "core/ranks.h"
#include "core/tensor/shard.h"
#include "core/tensor/tensor.h"
#include "kernels/runtime/allocator.h"

namespace plinth::checkpoints {

struct WriterOptions {
    std::string node;                   ///< host name: ranks with equal names share data files
    uint64_t file_bytes = 2ull << 30;   ///< a node's data is cut into files of at most this size
    uint64_t chunk_bytes = 8ull << 20;  ///< of one write
    int threads = 2;                    ///< of a synchronous save: one sums while another writes
    RetentionPolicy retention;          ///< applied after each commit
    Warn warn;                          ///< called on the thread that calls the writer
    /// Asked on rank 0, on a background thread, before COMMIT is written: what it throws fails the
    /// save. May be empty.
    std::function<void()> before_commit;
    CachingAllocator* allocator = nullptr;  ///< of the staging memory; null: one of its own

    void validate() const;
};

struct SaveRequest {
    std::string root;    ///< the run's checkpoint folder, on a file system that all ranks see
    std::string run_id;  ///< equal on all ranks
    int64_t step = 0;
    Manifest manifest;  ///< rank 0's counts
    std::span<const core::StateTensor> tensors;
};

/// Exact integers that the training loop adds over the ranks in its scalar reduction.
struct SaveState {
    int64_t busy = 0;
    int64_t failed = 0;
};

struct SaveOutcome {
    bool committed = false;
    int64_t step = 0;
    std::string folder;
    uint64_t bytes = 0;                 ///< written by this rank
    double copy_seconds = 0;            ///< until the tensors might change again
    double total_seconds = 0;           ///< from begin to the outcome
    double background_cpu_seconds = 0;  ///< of this rank's background threads
    std::string message;                ///< one line for the log, the same on every rank
};

/// Saves checkpoints. Calls marked collective are made by all ranks in the same order; background
/// threads never call `Ranks`.
///
/// Asynchronous:
///     writer.begin(request);                      // collective, returns at once
///     ... forward, backward ...
///     writer.wait_copied();                       // before tensors change
///     ... optimizer ...
///     total = sum over ranks of writer.local_state();   // rides on the step's scalar reduction
///     if (auto outcome = writer.advance(total)) ...     // collective
///
/// A failed save (disk full, I/O error on any rank) is an outcome, not an exception: the attempt is
/// removed, older checkpoints stay, and the caller decides whether to train on.
///
/// The outcome is known with the commit. Retention, which may read a whole checkpoint back, goes on
/// behind it; the next save waits for it. Wherever a rank waits for a disk, its own or another's,
/// the ranks meet in short sums: no collective lasts as long as a disk does.
class Writer {
  public:
    Writer(core::io::FileSystem& files, core::Ranks& ranks, WriterOptions options);
    /// An unfinished save is abandoned; the next writer on this folder removes what it left.
    ~Writer();
    Writer(const Writer&) = delete;
    Writer& operator=(const Writer&) = delete;

    /// Collective. Saves and waits for the outcome; writes straight from the tensors.
    SaveOutcome save(const SaveRequest& request);

    /// Collective. Takes the staging memory of asynchronous saves of these tensors now, so that a
    /// machine without it ends a run at its start and not at its first save. About their bytes
    /// over the number of ranks that hold them.
    void reserve(std::span<const core::StateTensor> tensors);
    /// Collective. Starts an asynchronous save; `request.tensors` must live and not change until
    /// `wait_copied` returns. One save at a time.
    void begin(const SaveRequest& request);
    /// Blocks until the tensors may change.
    void wait_copied();
    /// True from begin to the outcome, on all ranks alike.
    bool active() const { return phase_ == Phase::writing || phase_ == Phase::committing; }
    /// True after the outcome, on all ranks alike, until `advance` or `wait_retained` has seen the
    /// retention end.
    bool retaining() const { return phase_ == Phase::retaining; }
    /// This rank's part of the reduction; zeros when idle.
    SaveState local_state() const;
    /// Collective when the totals say that a phase is over (the same totals on every rank);
    /// otherwise returns at once. Empty until the outcome is known.
    std::optional<SaveOutcome> advance(const SaveState& total);
    /// Collective. Blocks until the outcome of the active save.
    SaveOutcome finish();
    /// Collective. Blocks until the retention after the latest save is done, if it is not.
    void wait_retained();

  private:
    enum class Phase { idle, writing, committing, retaining };

    void start(const SaveRequest& request, bool staged);
    void prepare_plan(std::span<const core::StateTensor> tensors);
    void take_staging(uint64_t bytes);
    void open_attempt(const SaveRequest& request);
    void launch(void (Writer::*work)());
    void join_worker();
    bool is_busy() const;
    /// At most a tick.
    void wait_for_worker();
    /// Collective. Until no rank's background thread works.
    void wait_for_all_workers();

    // Work of the background thread.
    void write_staged();
    void write_direct();
    /// The bytes of chunk i, in memory of its own or in `scratch`.
    using ChunkBytes =
        std::function<std::span<const std::byte>(size_t i, std::vector<std::byte>& scratch)>;
    void write_chunks(const ChunkBytes& bytes_of);
    void commit();
    void retain();
    /// Rank 0 makes or removes the attempt's folder.
    void make_folder();
    void remove_folder();
    void open_files();
    void write_superblocks_and_sync();

    void start_commit();
    SaveOutcome conclude();
    void end_retention();
    void give_warnings();
    SaveOutcome abandon();
    SaveOutcome outcome(bool committed, std::string message);
    Origin origin() const;

    core::io::FileSystem& files_;
    core::Ranks& ranks_;
    WriterOptions options_;
    Retention retention_;
    std::string mark_;          ///< in the folder of each attempt of this writer
    FolderName last_attempt_;   ///< an abandoned one's number is not used again
    std::string cleaned_root_;  ///< leftovers of earlier processes are removed once

    // The plan is made again only when a rank's table changes.
    std::string table_;
    SavePlan plan_;

    // The active save. Owned by the background thread while `busy_`.
    Phase phase_ = Phase::idle;
    std::string root_;
    Manifest manifest_;
    std::string folder_;
    RankPart part_;
    std::map<uint64_t, std::unique_ptr<core::io::WritableFile>> open_files_;  ///< by number
    CachingAllocator own_memory_{host_memory()};
    core::Tensor staging_;  ///< kept between saves
    std::vector<std::string> warnings_;
    std::chrono::steady_clock::time_point started_;
    double copy_seconds_ = 0;
    std::atomic<double> cpu_seconds_{0};
    Failure failure_;

    std::thread worker_;
    mutable std::mutex mutex_;
    std::condition_variable changed_;
    bool busy_ = false;
    bool copied_ = true;
    std::atomic<bool> cancel_{false};
};

}  // namespace plinth::checkpoints
