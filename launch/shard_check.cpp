// SPDX-License-Identifier: Apache-2.0
#include "launch/shard_check.h"

#include <array>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "checkpoints/failure.h"
#include "core/data/token_shard.h"
#include "launch/training_data.h"

namespace plinth::launch {

namespace {

using Clock = std::chrono::steady_clock;
using checkpoints::Failure;

/// Hashes this rank's share of the shards on a thread of its own.
class ShardReader {
  public:
    ShardReader(const DataSection& section, core::io::FileSystem& files, int rank, int ranks)
        : section_(section), files_(files), rank_(rank), ranks_(ranks), thread_([this] {
              work();
          }) {}
    ~ShardReader() {
        stop();
        thread_.join();
    }
    ShardReader(const ShardReader&) = delete;
    ShardReader& operator=(const ShardReader&) = delete;

    /// The thread ends after the piece that it reads now.
    void stop() { stop_ = true; }
    void wait(std::chrono::milliseconds most) {
        std::unique_lock lock(mutex_);
        changed_.wait_for(lock, most, [&] { return done_; });
    }
    bool is_busy() const {
        const std::lock_guard lock(mutex_);
        return !done_;
    }
    Failure failure() const {
        const std::lock_guard lock(mutex_);
        return failure_;
    }
    int64_t bytes() const { return bytes_; }
    int64_t shards() const { return shards_; }
    int64_t all_shards() const { return all_shards_; }  ///< of all ranks; 0: not known yet

  private:
    struct Stopped {};
    struct Shard {
        std::string folder;
        core::data::ShardEntry entry;
    };

    void work() {
        Failure failure;
        try {
            for (const Shard& shard : share())
                check(shard);
        } catch (const Stopped&) {  // another rank has failed
        } catch (...) {
            failure = checkpoints::current_failure();
        }
        const std::lock_guard lock(mutex_);
        failure_ = std::move(failure);
        done_ = true;
        changed_.notify_all();
    }

    std::vector<Shard> share() {
        std::vector<Shard> mine;
        int64_t number = 0;
        for (const std::string& folder : data_folders(section_)) {
            const auto manifest = core::data::DatasetManifest::load(files_, folder);
            for (const auto& [name, split] : manifest.splits)
                for (const core::data::ShardEntry& entry : split.shards)
                    if (number++ % ranks_ == rank_) mine.push_back({folder, entry});
        }
        all_shards_ = number;
        return mine;
    }

    void check(const Shard& shard) {
        core::data::verify_shard_hashes(files_, shard.folder, shard.entry, [this](uint64_t bytes) {
            bytes_ += static_cast<int64_t>(bytes);
            if (stop_) throw Stopped{};
        });
        ++shards_;
    }

    const DataSection& section_;
    core::io::FileSystem& files_;
    const int rank_;
    const int ranks_;
    std::atomic<bool> stop_{false};
    std::atomic<int64_t> bytes_{0}, shards_{0}, all_shards_{0};
    mutable std::mutex mutex_;
    std::condition_variable changed_;
    bool done_ = false;
    Failure failure_;
    std::thread thread_;  ///< last: it uses the others
};

}  // namespace

void verify_shards(const DataSection& section, core::io::FileSystem& files, core::Ranks& ranks,
                   const std::function<void(const std::string&)>& say, const ShardCheckPace& pace) {
    ShardReader reader(section, files, ranks.rank(), ranks.size());
    Clock::time_point said = Clock::now();
    for (;;) {
        reader.wait(pace.meet);
        // Asked before the failure: a rank that is not busy any more has told all it will tell.
        const bool busy = reader.is_busy();
        std::array<int64_t, 4> totals{busy ? 1 : 0, reader.failure().failed ? 1 : 0, reader.bytes(),
                                      reader.shards()};
        ranks.sum(totals);
        const auto& [busy_ranks, failed_ranks, bytes, shards] = totals;
        if (failed_ranks > 0) reader.stop();
        if (busy_ranks == 0) break;
        if (Clock::now() - said < pace.say) continue;
        said = Clock::now();
        say(fmt::format("data.verify: {} of {} shards, {:.2f} GiB hashed", shards,
                        reader.all_shards(), static_cast<double>(bytes) / (1 << 30)));
    }
    checkpoints::rethrow(checkpoints::agree(ranks, reader.failure()));
}

}  // namespace plinth::launch
