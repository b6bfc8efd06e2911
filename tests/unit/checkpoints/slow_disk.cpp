// SPDX-License-Identifier: Apache-2.0
// A disk that is slow for one rank: the others meet it in short collectives meanwhile, so that none
// of them lasts as long as the disk takes.
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "checkpoints/format.h"
#include "checkpoints/reader.h"
#include "checkpoints/restore.h"
#include "checkpoints/writer.h"
#include "tests/support/faulty_files.h"
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
    std::unique_ptr<core::Ranks> split(int color) override { return base_.split(color); }

  private:
    core::Ranks& base_;
    std::atomic<int>& sums_;
};

/// Stands still at each operation on a path that ends so, until the ranks have met some times or
/// for ten seconds.
class SlowFiles final : public plinth::test::ForwardingFiles {
  public:
    SlowFiles(core::io::FileSystem& base, std::string at, std::atomic<int>& sums, int times = 2)
        : ForwardingFiles(base), at_(std::move(at)), sums_(sums), times_(times) {}
    std::unique_ptr<core::io::ReadableFile> open_read(const std::string& path) override {
        stand_still(path + " read");
        return ForwardingFiles::open_read(path);
    }
    std::unique_ptr<core::io::WritableFile> open_write(const std::string& path,
                                                       core::io::OpenMode mode) override {
        stand_still(path);
        return ForwardingFiles::open_write(path, mode);
    }
    bool create_directory(const std::string& folder) override {
        stand_still(folder);
        return ForwardingFiles::create_directory(folder);
    }
    void remove_all(const std::string& folder) override {
        stand_still(folder + " removed");
        ForwardingFiles::remove_all(folder);
    }
    void rename(const std::string& from, const std::string& to) override {
        stand_still(to);
        ForwardingFiles::rename(from, to);
    }
    /// How often the ranks met while it stood still; -1: it never did.
    int met() const { return met_; }

  private:
    void stand_still(const std::string& path) {
        if (!path.ends_with(at_)) return;
        const int before = sums_;
        for (int i = 0; i < 1000 && sums_ < before + times_; ++i)
            std::this_thread::sleep_for(std::chrono::milliseconds(10));
        met_ = sums_ - before;
    }

    std::string at_;
    std::atomic<int>& sums_;
    const int times_;
    std::atomic<int> met_{-1};
};

TEST(SlowDisk, RanksMeetWhileOneWrites) {
    const std::string folder = "/" + folder_name(1, 1);
    for (const std::string& at : {folder, std::string("/data-00000.bin"), std::string("/COMMIT")}) {
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

// A rank that has failed ends the save while the disk of another one still writes, or while the
// folder is removed.
TEST(SlowDisk, RanksMeetWhileAFailedSaveIsAbandoned) {
    const std::string folder = folder_name(1, 1);
    for (const std::string& at : {std::string("/data-00000.bin"), "/" + folder + " removed"}) {
        plinth::test::MemoryFiles memory;
        plinth::test::FaultyFiles faulty(memory, {.operation = 0, .sticky = true});
        std::atomic<int> sums{0};
        // The first meetings are those of a save that goes on.
        SlowFiles slow(memory, at, sums, 5);
        plinth::test::ThreadRanks::run(2, [&](core::Ranks& base) {
            CountingRanks ranks(base, sums);
            core::io::FileSystem& files =
                base.rank() == 0 ? static_cast<core::io::FileSystem&>(slow) : faulty;
            Writer writer(files, ranks, {});
            const State state = replicated(larger_table(), 1);
            const SaveOutcome outcome = writer.save(request(state, 1));
            EXPECT_FALSE(outcome.committed);
            EXPECT_NE(outcome.message.find("rank 1: "), std::string::npos) << outcome.message;
        });
        EXPECT_GE(slow.met(), 5) << at;
        EXPECT_FALSE(memory.exists("run/" + folder)) << at;
    }
}

// Retention reads a checkpoint back: the outcome does not wait for it, the next save does, and the
// ranks meet meanwhile.
TEST(SlowDisk, TheOutcomeComesBeforeRetention) {
    plinth::test::MemoryFiles memory;
    std::atomic<int> sums{0};
    const std::string second = "run/" + folder_name(2, 1);
    SlowFiles slow(memory, second + "/COMMIT read", sums);
    plinth::test::ThreadRanks::run(2, [&](core::Ranks& base) {
        CountingRanks ranks(base, sums);
        Writer writer(base.rank() == 0 ? static_cast<core::io::FileSystem&>(slow) : memory, ranks,
                      {.retention = {.keep_newest = 1}});
        const State state = replicated(tiny_table(), 1);
        EXPECT_TRUE(writer.save(request(state, 1)).committed);
        EXPECT_TRUE(writer.save(request(state, 2)).committed);
        EXPECT_EQ(slow.met(), -1);
        EXPECT_TRUE(writer.retaining());
        EXPECT_FALSE(writer.active());
        EXPECT_TRUE(memory.exists("run/" + folder_name(1, 1)));
        ranks.barrier();  // both have looked
        EXPECT_TRUE(writer.save(request(state, 3)).committed);
        writer.wait_retained();
        EXPECT_FALSE(writer.retaining());
        ranks.barrier();
    });
    EXPECT_GE(slow.met(), 2);
    EXPECT_EQ(list_checkpoints(memory, "run").size(), 1u);
}

// The same in the training loop, which asks after each step.
TEST(SlowDisk, AnAsynchronousSaveEndsWithItsRetention) {
    plinth::test::MemoryFiles memory;
    core::SelfRanks ranks;
    Writer writer(memory, ranks, {.retention = {.keep_newest = 1}});
    const State state = replicated(tiny_table(), 1);
    for (const int64_t step : {1, 2}) {
        writer.begin(request(state, step));
        std::optional<SaveOutcome> outcome;
        while (writer.active())
            outcome = writer.advance(writer.local_state());
        ASSERT_TRUE(outcome && outcome->committed);
        EXPECT_TRUE(writer.retaining());
        while (writer.retaining())
            EXPECT_FALSE(writer.advance(writer.local_state()));
        EXPECT_EQ(writer.local_state().busy, 0);
        EXPECT_EQ(list_checkpoints(memory, "run").size(), 1u);
    }
}

/// Before it reads more tensor bytes, waits until the loader has said that it has those before, or
/// for ten seconds. Passes everything on until it is closed.
class Gate final : public plinth::test::ForwardingFiles {
  public:
    using ForwardingFiles::ForwardingFiles;
    std::unique_ptr<core::io::ReadableFile> open_read(const std::string& path) override {
        return std::make_unique<Readable>(*this, ForwardingFiles::open_read(path));
    }

    std::atomic<bool> closed{false};
    std::atomic<int> reads{0}, said{0};

  private:
    class Readable final : public core::io::ReadableFile {
      public:
        Readable(Gate& gate, std::unique_ptr<core::io::ReadableFile> base)
            : gate_(gate), base_(std::move(base)) {}
        const std::string& path() const override { return base_->path(); }
        uint64_t size() const override { return base_->size(); }
        void read_at(uint64_t offset, std::span<std::byte> out) const override {
            if (gate_.closed) {
                const int before = gate_.reads++;
                for (int i = 0; i < 1000 && gate_.said < before; ++i)
                    std::this_thread::sleep_for(std::chrono::milliseconds(10));
                REQUIRE(io, gate_.said >= before, "nobody said that {} reads are done", before);
            }
            base_->read_at(offset, out);
        }

      private:
        Gate& gate_;
        std::unique_ptr<core::io::ReadableFile> base_;
    };
};

// Each rank reads a part of its own, so that no collective shows how far it has come.
TEST(SlowDisk, ALoadSaysHowItGoesOn) {
    constexpr int count = 20;
    std::vector<Entry> table;
    for (int i = 0; i < count; ++i)
        table.push_back({fmt::format("model.{}", i), DType::f32, {64}});
    plinth::test::MemoryFiles memory;
    core::SelfRanks alone;
    Writer writer(memory, alone, {});
    ASSERT_TRUE(writer.save(request(replicated(table, 1), 1)).committed);

    plinth::test::ThreadRanks::run(2, [&](core::Ranks& ranks) {
        State half;
        for (const Entry& entry : table) {
            core::Shard shard = core::Shard::whole(entry.shape);
            (ranks.rank() == 0 ? shard.end : shard.begin) = 32;
            half.add(entry.name, entry.dtype, shard, 1);
        }
        const State wanted = half;
        half.clear();
        Gate gate(memory);
        const auto checkpoint = checkpoints::open_newest(gate, "run", {});
        gate.closed = true;
        checkpoints::load(*checkpoint, ranks, half.tensors,
                          {.threads = 1, .progress = [&] { ++gate.said; }});
        EXPECT_EQ(gate.reads, count);
        EXPECT_EQ(gate.said, count);
        EXPECT_TRUE(half == wanted);
    });
}

}  // namespace
}  // namespace plinth::checkpoints::test
