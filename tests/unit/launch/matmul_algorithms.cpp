// SPDX-License-Identifier: Apache-2.0
#include "launch/matmul_algorithms.h"

#include <gtest/gtest.h>

#include <set>

#include "checkpoints/restore.h"
#include "launch/checkpoint_keeper.h"
#include "parallel/comm/self.h"
#include "tests/support/expect_error.h"
#include "tests/support/memory_files.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/thread_ranks.h"

namespace plinth::launch {
namespace {

using kernels::Algorithm;
using kernels::AlgorithmTable;
using kernels::AlgorithmTables;

const std::string card = "A card 80GB, library 13.1";
const std::string other_card = "Another card, library 13.1";

/// A library whose timings come out differently on each rank: what it chooses tells who timed.
class FakeLibrary final : public AlgorithmStore {
  public:
    FakeLibrary(const std::string& machine, int rank)
        : known_(machine), used_(machine), rank_(static_cast<uint64_t>(rank)) {}

    /// A product of that key; 0 while its algorithm is open.
    uint64_t run(const std::string& key) {
        met_.insert(key);
        if (const Algorithm* known = known_.find(key)) used_.set(key, *known);
        if (!used_.find(key)) {
            if (!may_time_) return 0;
            ++timings_;
            used_.set(key, {100 + rank_, 1});
        }
        return (*used_.find(key))[0];
    }
    int timings() const { return timings_; }

    std::string save() override { return used_.save(); }
    int64_t count() override { return static_cast<int64_t>(used_.size()); }
    bool load(const std::string& text) override {
        const bool is_taken = known_.load(text);
        for (const std::string& key : met_)
            if (const Algorithm* known = known_.find(key)) used_.set(key, *known);
        return is_taken;
    }
    void let_be_timed(bool may_time) override { may_time_ = may_time; }

  private:
    AlgorithmTable known_, used_;
    std::set<std::string> met_;
    uint64_t rank_;
    bool may_time_ = true;
    int timings_ = 0;
};

/// A rank of a run.
struct Rank {
    Rank(core::Ranks& ranks, core::io::FileSystem& files, const std::string& machine = card,
         std::vector<std::string>* warnings = nullptr, const std::string& folder = "cache/plinth")
        : library(new FakeLibrary(machine, ranks.rank())),
          algorithms(std::unique_ptr<AlgorithmStore>(library), ranks, files,
                     {.folder = folder, .warn = [warnings](const std::string& line) {
                          if (warnings)
                              warnings->push_back(line);
                          else
                              ADD_FAILURE() << line;
                      }}) {
        algorithms.open();
    }
    FakeLibrary* library;
    MatmulAlgorithms algorithms;
};

const std::string path_of_card = "cache/plinth/" + algorithm_file_name(card);

class MatmulAlgorithmsTest : public ::testing::Test {
  protected:
    MatmulAlgorithmsTest() { files_.make_directories("cache"); }
    /// One rank that times two products and leaves a file.
    void leave_file() {
        Rank rank(self_, files_);
        rank.library->run("8x8x8 NN");
        rank.library->run("3x5x7 TN");
        rank.algorithms.exchange();
    }
    /// What a later run says of it, and whether it times.
    std::string warning_of_next_run(int timings) {
        std::vector<std::string> warnings;
        Rank rank(self_, files_, card, &warnings);
        rank.library->run("8x8x8 NN");
        EXPECT_EQ(rank.library->timings(), timings);
        rank.algorithms.exchange();
        return fmt::format("{}", fmt::join(warnings, "\n"));
    }

    test::MemoryFiles files_;
    core::SelfRanks self_;
};

TEST_F(MatmulAlgorithmsTest, RankZeroTimesOnceAndAllTakeItsChoice) {
    test::ThreadRanks::run(4, [this](core::Ranks& ranks) {
        Rank rank(ranks, files_);
        rank.algorithms.let_first_rank_time();
        EXPECT_EQ(rank.library->run("8x8x8 NN"), ranks.rank() == 0 ? 100u : 0u);
        EXPECT_TRUE(rank.algorithms.has_news());
        rank.algorithms.exchange();
        EXPECT_EQ(rank.library->run("8x8x8 NN"), 100u);
        EXPECT_EQ(rank.library->timings(), ranks.rank() == 0 ? 1 : 0);
        EXPECT_FALSE(rank.algorithms.has_news());
        EXPECT_EQ(ranks.broadcast(rank.algorithms.text(), 0), rank.algorithms.text());
    });
}

TEST_F(MatmulAlgorithmsTest, WithoutTheExchangeRanksDiffer) {
    test::ThreadRanks::run(2, [this](core::Ranks& ranks) {
        Rank rank(ranks, files_);
        EXPECT_EQ(rank.library->run("8x8x8 NN"), 100u + static_cast<uint64_t>(ranks.rank()));
    });
}

TEST_F(MatmulAlgorithmsTest, WhatOnlyOthersHaveTheLowestOfThemChooses) {
    // Two stages of a pipeline: the second has a product that the first has not.
    test::ThreadRanks::run(4, [this](core::Ranks& ranks) {
        Rank rank(ranks, files_);
        const bool is_second = ranks.rank() >= 2;
        rank.algorithms.let_first_rank_time();
        if (is_second) {
            EXPECT_EQ(rank.library->run("head"), 0u);
        }
        rank.algorithms.exchange();
        if (is_second) {
            EXPECT_GT(rank.library->run("head"), 0u);
        }
        EXPECT_TRUE(ranks.all_agree(rank.algorithms.has_news() == is_second));
        rank.algorithms.exchange();
        EXPECT_FALSE(rank.algorithms.has_news());
        EXPECT_EQ(rank.library->run("head"), 102u);
        EXPECT_EQ(rank.library->timings(), is_second ? 1 : 0);
    });
}

TEST_F(MatmulAlgorithmsTest, MachinesOfTwoKindsKeepTablesOfTheirOwn) {
    test::ThreadRanks::run(4, [this](core::Ranks& ranks) {
        Rank rank(ranks, files_, ranks.rank() % 2 ? other_card : card);
        rank.library->run("8x8x8 NN");
        rank.algorithms.exchange();
        EXPECT_EQ(rank.library->run("8x8x8 NN"), ranks.rank() % 2 ? 101u : 100u);
    });
    EXPECT_TRUE(files_.exists(path_of_card));
    EXPECT_TRUE(files_.exists("cache/plinth/" + algorithm_file_name(other_card)));
    test::ThreadRanks::run(2, [this](core::Ranks& ranks) {
        Rank rank(ranks, files_, ranks.rank() % 2 ? card : other_card);
        EXPECT_EQ(rank.library->run("8x8x8 NN"), ranks.rank() % 2 ? 100u : 101u);
        EXPECT_EQ(rank.library->timings(), 0);
    });
}

TEST_F(MatmulAlgorithmsTest, ARankWithoutADeviceJoinsTheOthers) {
    test::ThreadRanks::run(3, [this](core::Ranks& ranks) {
        std::unique_ptr<FakeLibrary> library;
        if (ranks.rank() > 0) library = std::make_unique<FakeLibrary>(card, ranks.rank());
        FakeLibrary* mine = library.get();
        MatmulAlgorithms algorithms(std::move(library), ranks, files_, {.folder = "cache/plinth"});
        algorithms.open();
        if (mine) mine->run("8x8x8 NN");
        algorithms.exchange();
        if (mine) {
            EXPECT_EQ(mine->run("8x8x8 NN"), 101u);
        }
    });
    EXPECT_TRUE(files_.exists(path_of_card));
}

TEST_F(MatmulAlgorithmsTest, WithoutDevicesNothingHappens) {
    test::ThreadRanks::run(2, [this](core::Ranks& ranks) {
        MatmulAlgorithms algorithms(nullptr, ranks, files_, {.folder = "cache/plinth"});
        algorithms.open();
        algorithms.let_first_rank_time();
        EXPECT_FALSE(algorithms.has_news());
        algorithms.resume("not a table");
        algorithms.exchange();
        EXPECT_EQ(algorithms.text(), "");
    });
    EXPECT_TRUE(files_.paths().empty());
}

TEST_F(MatmulAlgorithmsTest, ALaterRunTimesNothing) {
    leave_file();
    EXPECT_EQ(files_.paths(), std::vector<std::string>{path_of_card});
    test::ThreadRanks::run(2, [this](core::Ranks& ranks) {
        Rank rank(ranks, files_);
        rank.algorithms.let_first_rank_time();
        EXPECT_EQ(rank.library->run("8x8x8 NN"), 100u);
        EXPECT_EQ(rank.library->timings(), 0);
        rank.algorithms.exchange();
        // What the file holds beyond is not part of this run.
        const AlgorithmTables tables = AlgorithmTables::read(rank.algorithms.text());
        EXPECT_EQ(tables.find(card)->size(), 1u);
    });
}

TEST_F(MatmulAlgorithmsTest, NewProductsJoinTheFileAndOldOnesStay) {
    leave_file();
    {
        Rank rank(self_, files_);
        files_.bytes(path_of_card) = algorithm_file([] {
            AlgorithmTable of_another_job(card);
            of_another_job.set("8x8x8 NN", {7});
            of_another_job.set("2x2x2 NN", {8});
            return of_another_job;
        }());
        rank.library->run("8x8x8 NN");
        rank.library->run("9x9x9 NN");
        rank.algorithms.exchange();
    }
    const AlgorithmTable table = read_algorithm_file(files_.bytes(path_of_card), card);
    EXPECT_EQ(table.size(), 3u);
    EXPECT_EQ((*table.find("8x8x8 NN"))[0], 7u);
    EXPECT_NE(table.find("9x9x9 NN"), nullptr);
}

TEST_F(MatmulAlgorithmsTest, ADamagedFileIsNamedOnceAndWrittenAnew) {
    leave_file();
    const std::string sound = files_.bytes(path_of_card);
    const auto expect_rewritten = [&](const std::string& content, const std::string& reason) {
        files_.bytes(path_of_card) = content;
        const std::string warning = warning_of_next_run(1);
        EXPECT_NE(warning.find(path_of_card), std::string::npos) << warning;
        EXPECT_NE(warning.find(reason), std::string::npos) << warning;
        EXPECT_EQ(warning.find('\n'), std::string::npos) << warning;
        EXPECT_EQ(warning_of_next_run(0), "") << reason;
    };
    expect_rewritten("", "does not end with a checksum");
    expect_rewritten(sound.substr(0, sound.size() / 2), "does not end with a checksum");
    std::string flipped = sound;  // another algorithm, in digits that can be read
    flipped[sound.find("8x8x8 NN") + 20] ^= 1;
    expect_rewritten(flipped, "its checksum is another one");
    expect_rewritten(sound + "more\n", "its checksum is another one");
    expect_rewritten("something else\n", "does not end with a checksum");
    expect_rewritten(algorithm_file(AlgorithmTable(other_card)),
                     "it is of Another card, library 13.1, and not of A card 80GB, library 13.1");
}

TEST_F(MatmulAlgorithmsTest, AFolderThatCannotBeWrittenIsSaidOnce) {
    const test::TemporaryFolder folder;
    core::io::write_atomically(core::io::posix(), folder / "file", "no folder");
    std::vector<std::string> warnings;
    Rank rank(self_, core::io::posix(), card, &warnings, folder / "file/plinth");
    warnings.clear();  // of reading
    rank.library->run("8x8x8 NN");
    rank.algorithms.exchange();
    rank.library->run("9x9x9 NN");
    rank.algorithms.exchange();
    ASSERT_EQ(warnings.size(), 1u);
    EXPECT_NE(warnings[0].find("run.algorithm_cache"), std::string::npos) << warnings[0];
    EXPECT_EQ(AlgorithmTables::read(rank.algorithms.text()).find(card)->size(), 2u);
}

TEST_F(MatmulAlgorithmsTest, AResumeTakesTheCheckpointsBeforeTheFiles) {
    AlgorithmTables stored;
    stored.of(card).set("8x8x8 NN", {55});
    leave_file();
    test::ThreadRanks::run(2, [&](core::Ranks& ranks) {
        Rank rank(ranks, files_);
        rank.algorithms.resume(stored.save());
        EXPECT_EQ(rank.library->run("8x8x8 NN"), 55u);
        EXPECT_EQ(rank.library->run("3x5x7 TN"), 100u);
        rank.algorithms.exchange();
        const AlgorithmTables kept = AlgorithmTables::read(rank.algorithms.text());
        EXPECT_EQ((*kept.find(card)->find("8x8x8 NN"))[0], 55u);
    });
    // The file's own choice is what other runs have.
    const AlgorithmTable table = read_algorithm_file(files_.bytes(path_of_card), card);
    EXPECT_EQ((*table.find("8x8x8 NN"))[0], 100u);
}

TEST_F(MatmulAlgorithmsTest, AResumeElsewhereSaysSoAndChoosesAnew) {
    AlgorithmTables stored;
    stored.of(other_card).set("8x8x8 NN", {55});
    const auto warning_of = [this](const std::string& text) {
        std::vector<std::string> warnings;
        Rank rank(self_, files_, card, &warnings, "");
        rank.algorithms.resume(text);
        rank.library->run("8x8x8 NN");
        EXPECT_EQ(rank.library->timings(), 1);
        EXPECT_EQ(warnings.size(), 1u);
        return warnings.empty() ? "" : warnings[0];
    };
    EXPECT_NE(warning_of(stored.save()).find("of Another card, library 13.1: on A card 80GB"),
              std::string::npos);
    EXPECT_NE(warning_of("").find("holds no algorithms"), std::string::npos);
    EXPECT_NE(warning_of("damage").find("unreadable"), std::string::npos);
}

TEST(AlgorithmCacheFolder, FollowsKeyAndEnvironment) {
    std::map<std::string, const char*> variables;
    const auto folder = [&](const std::string& key) {
        return algorithm_cache_folder(key, [&](const char* name) {
            const auto found = variables.find(name);
            return found == variables.end() ? nullptr : found->second;
        });
    };
    EXPECT_EQ(folder(""), "");
    EXPECT_EQ(folder("scratch/here"), "scratch/here");
    variables["HOME"] = "/users/a";
    EXPECT_EQ(folder(""), "/users/a/.cache/plinth");
    EXPECT_EQ(folder("off"), "");
    variables["XDG_CACHE_HOME"] = "/scratch/a";
    EXPECT_EQ(folder(""), "/scratch/a/plinth");
    variables["XDG_CACHE_HOME"] = "relative";
    EXPECT_EQ(folder(""), "/users/a/.cache/plinth");
}

TEST(AlgorithmCacheFolder, AFilePerKindOfMachine) {
    EXPECT_EQ(algorithm_file_name("NVIDIA H100 80GB HBM3, cuBLASLt 130100"),
              "matmul-NVIDIA-H100-80GB-HBM3-cuBLASLt-130100.txt");
    EXPECT_EQ(algorithm_file_name("../x\ty"), "matmul-..-x-y.txt");
}

class AlgorithmsInCheckpointsTest : public ::testing::Test {
  protected:
    void save(const std::string& algorithms) {
        TrainingState state{.run_id = checkpoints::new_run_id()};
        state.matmul_algorithms = algorithms;
        keeper_.save(state);
    }
    std::string resumed() {
        TrainingState state;
        state.matmul_algorithms = "of before";
        EXPECT_TRUE(keeper_.resume(state, {}));
        return state.matmul_algorithms;
    }

    test::TemporaryFolder folder_;
    parallel::SelfCommunicator world_;
    Session session_{world_, 1};
    CheckpointKeeper keeper_{{.folder = folder_.path(), .async = false}, session_, {}, {}};
};

TEST_F(AlgorithmsInCheckpointsTest, AResumeHasWhatWasSaved) {
    AlgorithmTables tables;
    tables.of(card).set("8x8x8 NN", {1, 2, 3, 4, 5, 6, 7, 8});
    save(tables.save());
    EXPECT_EQ(resumed(), tables.save());
}

TEST_F(AlgorithmsInCheckpointsTest, ACheckpointWithoutThemIsSound) {
    save("");
    const auto newest = checkpoints::open_newest(session_.files(), folder_.path(), {});
    ASSERT_TRUE(newest);
    EXPECT_EQ(newest->manifest().blobs.size(), 1u) << "the sampler alone, as before there were any";
    EXPECT_EQ(resumed(), "");
}

}  // namespace
}  // namespace plinth::launch
