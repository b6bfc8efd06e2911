// SPDX-License-Identifier: Apache-2.0
#include "launch/doctor.h"

#include <gtest/gtest.h>

namespace plinth::launch {
namespace {

/// One problem, whose line holds all `parts`.
void expect_one(const std::vector<RankReport>& ranks, const std::vector<std::string>& parts) {
    const std::vector<std::string> problems = problems_of(ranks);
    ASSERT_EQ(problems.size(), 1u);
    for (const std::string& part : parts)
        EXPECT_NE(problems[0].find(part), std::string::npos) << problems[0] << ": no " << part;
}

std::vector<RankReport> sound_ranks() {
    std::vector<RankReport> ranks;
    for (int r = 0; r < 4; ++r)
        ranks.push_back({.host = r < 2 ? "a" : "b",
                         .program = "plinth 1;simd avx2",
                         .nccl = "2.28.9",
                         .gpus = {"cuda:0 H100, 79.2 GiB", "cuda:1 H100, 79.2 GiB"},
                         .cores = {2 * (r % 2), 2 * (r % 2) + 1},
                         .threads = 2,
                         .memory = 1e10,
                         .fp32 = 1e11 + r,
                         .bf16 = 2e11,
                         .copy = 1e10,
                         .latency = 1.5e-6,
                         .link = 2e9});
    return ranks;
}

TEST(Doctor, AReportSurvivesItsTravel) {
    const RankReport report = sound_ranks()[1];
    EXPECT_EQ(decode(encode(report)), report);
    EXPECT_EQ(decode(encode(RankReport{})), RankReport{});
    const RankReport bare{.no_nccl = "no library", .no_gpu = "no driver", .cores = {1, 2}};
    EXPECT_EQ(decode(encode(bare)), bare);
}

TEST(Doctor, DevicesAreThoseOfEveryMachine) {
    auto ranks = sound_ranks();
    EXPECT_EQ(devices_text(ranks),
              "GPUs:\n  cuda:0 H100, 79.2 GiB\n  cuda:1 H100, 79.2 GiB\nNCCL: 2.28.9\n");
    for (size_t r : {2u, 3u}) {
        ranks[r].gpus.clear();
        ranks[r].no_gpu = "no driver";
        ranks[r].nccl.clear();
        ranks[r].no_nccl = "no library";
    }
    EXPECT_EQ(devices_text(ranks),
              "GPUs of a:\n  cuda:0 H100, 79.2 GiB\n  cuda:1 H100, 79.2 GiB\n"
              "GPUs of b: none (no driver)\n"
              "NCCL of a: 2.28.9\nNCCL of b: none (no library)\n");
    ranks[0].host = ranks[1].host = "c";
    ranks[3].host = "d";
    EXPECT_NE(devices_text(ranks).find("GPUs of b, d: none (no driver)\n"), std::string::npos);
}

TEST(Doctor, AnotherNcclIsNamedWhereThereAreGpus) {
    auto ranks = sound_ranks();
    ranks[3].nccl = "2.27.5";
    expect_one(ranks, {"rank 3 on b", "NCCL 2.27.5", "NCCL 2.28.9"});
    ranks[3].nccl.clear();
    ranks[3].no_nccl = "no library";
    expect_one(ranks, {"rank 3 on b", "no NCCL (no library)", "NCCL 2.28.9"});
    ranks[3].gpus.clear();
    EXPECT_TRUE(problems_of(ranks).empty());
}

TEST(Doctor, SoundRanksHaveNoProblem) {
    EXPECT_TRUE(problems_of(sound_ranks()).empty());
    EXPECT_TRUE(problems_of({sound_ranks()[0]}).empty());
}

TEST(Doctor, ASlowRankIsNamed) {
    auto ranks = sound_ranks();
    ranks[2].fp32 = 5e10;
    expect_one(ranks, {"rank 2 on b", "50 %", "0-1"});
}

TEST(Doctor, ASlowLinkIsNamedByItsEnds) {
    auto ranks = sound_ranks();
    ranks[3].link = 5e8;
    expect_one(ranks, {"from rank 3 on b to rank 0 on a", "25 %"});
}

TEST(Doctor, AnotherProgramIsNamed) {
    auto ranks = sound_ranks();
    ranks[1].program = "plinth 1;simd avx512f";
    expect_one(ranks, {"rank 1 on a", "avx512f", "avx2"});
}

TEST(Doctor, SharedCoresAreCountedByHost) {
    auto ranks = sound_ranks();
    ranks[1].cores = ranks[0].cores;
    expect_one(ranks, {"a: 4 threads of all ranks share 2 cores"});
}

}  // namespace
}  // namespace plinth::launch
