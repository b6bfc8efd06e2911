// SPDX-License-Identifier: Apache-2.0
// Power goes off at every operation of a save with retention: what is left is the old checkpoint or
// the new one, never neither and never a mix. Disks that forget a sync must be noticed by this
// test.
#include <gtest/gtest.h>

#include <functional>
#include <random>

#include "checkpoints/restore.h"
#include "checkpoints/writer.h"
#include "tests/support/faulty_files.h"
#include "tests/support/forwarding_files.h"
#include "tests/support/memory_files.h"
#include "tests/unit/checkpoints/state.h"

namespace plinth::checkpoints::test {
namespace {

using plinth::test::Fault;
using plinth::test::FaultyFiles;
using plinth::test::MemoryFiles;

/// A disk that forgets some syncs: the mutant of every fsync in the writer.
class Forgetful final : public plinth::test::ForwardingFiles {
  public:
    using Forgets = std::function<bool(const std::string& path)>;
    Forgetful(core::io::FileSystem& base, Forgets file, Forgets folder)
        : ForwardingFiles(base), file_(std::move(file)), folder_(std::move(folder)) {}

    std::unique_ptr<core::io::WritableFile> open_write(const std::string& path,
                                                       core::io::OpenMode mode) override {
        return std::make_unique<File>(ForwardingFiles::open_write(path, mode), file_(path));
    }
    void sync_directory(const std::string& folder) override {
        if (!folder_(folder)) ForwardingFiles::sync_directory(folder);
    }

  private:
    class File final : public core::io::WritableFile {
      public:
        File(std::unique_ptr<core::io::WritableFile> base, bool forgets)
            : base_(std::move(base)), forgets_(forgets) {}
        const std::string& path() const override { return base_->path(); }
        void append(std::span<const std::byte> bytes) override { base_->append(bytes); }
        void write_at(uint64_t offset, std::span<const std::byte> bytes) override {
            base_->write_at(offset, bytes);
        }
        void sync() override {
            if (!forgets_) base_->sync();
        }
        void close() override { base_->close(); }

      private:
        std::unique_ptr<core::io::WritableFile> base_;
        bool forgets_;
    };
    Forgets file_, folder_;
};

bool save(core::io::FileSystem& files, int64_t step) {
    core::SelfRanks ranks;
    WriterOptions options{.threads = 1};
    options.retention.keep_newest = 1;
    Writer writer(files, ranks, options);
    const State state = replicated(tiny_table(), static_cast<uint64_t>(step));
    return writer.save(request(state, step)).committed;
}

/// What a restart finds; empty is a loss. `acknowledged` steps must not be lost.
std::string problem_after_crash(MemoryFiles& files, int64_t acknowledged) {
    core::SelfRanks ranks;
    std::string problem;
    const Warn warn = [&](const std::string& line) { problem += line; };
    State state = replicated(tiny_table(), 99);
    try {
        const auto restored = restore_newest(files, ranks, "run", state.tensors, warn);
        if (!restored) return "no checkpoint";
        if (restored->manifest.step < acknowledged) problem += "an acknowledged step is lost";
        if (!(state == replicated(tiny_table(), static_cast<uint64_t>(restored->manifest.step))))
            problem += "other tensors";
    } catch (const Error& error) {
        return error.what();
    }
    return problem;
}

/// Saves step 1, then step 2 with the power going off at operation k, for every k; `coins` random
/// disks each. Returns the first problem.
std::string first_problem(const Forgetful::Forgets& file, const Forgetful::Forgets& folder,
                          int coins, int64_t* states = nullptr) {
    MemoryFiles before;
    Forgetful disk(before, file, folder);
    CHECK(save(disk, 1), "step 1");
    for (int64_t k = 0;; ++k) {
        bool met = false;
        for (int coin = -1; coin < coins; ++coin) {
            const auto files = before.clone();
            Forgetful forgetful(*files, file, folder);
            FaultyFiles faulty(forgetful,
                               {.operation = k, .sticky = true, .short_write = coin % 2 == 0});
            const bool committed = save(faulty, 2);
            met = faulty.failed();
            std::mt19937 random(static_cast<unsigned>(coin + 2));
            if (coin < 0)
                files->crash();
            else
                files->crash([&] { return random() % 2 == 0; });
            const std::string problem = problem_after_crash(*files, committed ? 2 : 1);
            if (!problem.empty()) return fmt::format("operation {}: {}", k, problem);
            if (states) ++*states;
        }
        if (!met) return {};
    }
}

const Forgetful::Forgets none = [](const std::string&) { return false; };

TEST(PowerCut, OldOrNewAtEveryOperation) {
    int64_t states = 0;
    EXPECT_EQ(first_problem(none, none, 20, &states), "");
    EXPECT_GT(states, 1000);
}

TEST(PowerCut, EverySyncThatADiskForgetsIsNoticed) {
    const auto holding = [](const std::string& part) {
        return [part](const std::string& path) { return path.find(part) != std::string::npos; };
    };
    for (const char* file : {".bin", ".index", "/manifest", "vocab.json", "COMMIT"})
        EXPECT_NE(first_problem(holding(file), none, 20), "") << file;
    // The run's folder, the attempt's, the one of the side files.
    EXPECT_NE(first_problem(
                  none, [](const std::string& path) { return path == "run"; }, 20),
              "");
    EXPECT_NE(first_problem(
                  none,
                  [](const std::string& path) {
                      return path.find("attempt") != std::string::npos && !path.ends_with("files");
                  },
                  20),
              "");
    EXPECT_NE(first_problem(none, holding("/files"), 20), "");
}

}  // namespace
}  // namespace plinth::checkpoints::test
