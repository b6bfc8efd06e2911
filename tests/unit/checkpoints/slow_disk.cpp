// SPDX-License-Identifier: Apache-2.0
// A disk that is slow for one rank: the others meet it in short collectives meanwhile, so that none
// of them lasts as long as the disk takes.
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "checkpoints/writer.h"
#include "tests/support/forwarding_files.h"
#include "tests/support/memory_files.h"
#include "tests/support/thread_ranks.h"
#include "tests/unit/checkpoints/state.h"

namespace plinth::checkpoints::test {
namespace {

/// Counts this rank's sums.
class CountingRanks final : public core::Ranks {
  public:
    CountingRanks(core::Ranks& base, std::atomic<int>& sums) : base_(base), sums_(sums) {}
    int rank() const override { return base_.rank(); }
    int size() const override { return base_.size(); }
    void barrier() override { base_.barrier(); }
    std::string broadcast(const std::string& bytes, int root) override {
        return base_.broadcast(bytes, root);
    }
    std::vector<std::string> gather(const std::string& bytes, int root) override {
        return base_.gather(bytes, root);
    }
    void sum(std::span<int64_t> values) override {
        base_.sum(values);
        ++sums_;
    }

  private:
    core::Ranks& base_;
    std::atomic<int>& sums_;
};

/// Stands still at one operation until the ranks have met twice, or for ten seconds.
class SlowFiles final : public plinth::test::ForwardingFiles {
  public:
    SlowFiles(core::io::FileSystem& base, std::string at, std::atomic<int>& sums)
        : ForwardingFiles(base), at_(std::move(at)), sums_(sums) {}
    std::unique_ptr<core::io::WritableFile> open_write(const std::string& path,
                                                       core::io::OpenMode mode) override {
        stand_still(path);
        return ForwardingFiles::open_write(path, mode);
    }
    void rename(const std::string& from, const std::string& to) override {
        stand_still(to);
        ForwardingFiles::rename(from, to);
    }
    int met() const { return met_; }

  private:
    void stand_still(const std::string& path) {
        if (!path.ends_with(at_)) return;
        const int before = sums_;
        for (int i = 0; i < 1000 && sums_ < before + 2; ++i)
            std::this_thread::sleep_for(std::chrono::milliseconds(10));
        met_ = sums_ - before;
    }

    std::string at_;
    std::atomic<int>& sums_;
    std::atomic<int> met_{-1};
};

TEST(SlowDisk, RanksMeetWhileOneWrites) {
    for (const std::string at : {"/data-00000.bin", "/COMMIT"}) {
        plinth::test::MemoryFiles memory;
        std::atomic<int> sums{0};
        SlowFiles slow(memory, at, sums);
        plinth::test::ThreadRanks::run(2, [&](core::Ranks& base) {
            CountingRanks ranks(base, sums);
            const bool is_slow = base.rank() == 0;
            Writer writer(is_slow ? static_cast<core::io::FileSystem&>(slow) : memory, ranks, {});
            const State state = replicated(tiny_table(), 1);
            EXPECT_TRUE(writer.save(request(state, 1)).committed);
        });
        EXPECT_GE(slow.met(), 2) << at;
    }
}

}  // namespace
}  // namespace plinth::checkpoints::test
