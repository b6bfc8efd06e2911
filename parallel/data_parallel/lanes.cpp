// SPDX-License-Identifier: Apache-2.0
#include "parallel/data_parallel/lanes.h"

#include <algorithm>

#include "kernels/runtime/error.h"

namespace plinth::parallel {

void LanePlan::validate() const {
    CHECK(slots >= 1 && ranks >= 1, "{} slots, {} ranks", slots, ranks);
    REQUIRE(config, lanes >= 1 && lanes <= slots,
            "train.lanes: must be between 1 and the {} micro-batches of the global batch, got {}",
            slots, lanes);
    REQUIRE(config, ranks <= slots,
            "train.global_batch: {} micro-batches cannot be divided among {} data-parallel ranks: "
            "start at most {} ranks, or set train.global_batch to at least {} x train.micro_batch",
            slots, ranks, slots, ranks);
    REQUIRE(config, ranks <= lanes,
            "train.lanes: {} lanes cannot be divided among {} data-parallel ranks: set "
            "train.lanes={} (a change of lanes ends bitwise comparability there)",
            lanes, ranks, ranks);
}

std::optional<int64_t> LanePlan::lane_of(int rank, int64_t round) const {
    const int64_t lane = round * ranks + rank;
    return lane < lanes ? std::optional(lane) : std::nullopt;
}

int LanePlan::lanes_in(int64_t round) const {
    return static_cast<int>(std::clamp<int64_t>(lanes - round * ranks, 0, ranks));
}

std::vector<int64_t> LanePlan::slots_of(int rank) const {
    std::vector<int64_t> mine;
    for (int64_t lane = rank; lane < lanes; lane += ranks)
        for (int64_t slot = lane_begin(lane); slot < lane_begin(lane + 1); ++slot)
            mine.push_back(slot);
    return mine;
}

std::vector<std::optional<int64_t>> LanePlan::aligned_slots_of(int rank) const {
    std::vector<std::optional<int64_t>> mine;
    for (int64_t round = 0; round < rounds(); ++round) {
        int64_t longest = 0;
        for (int peer = 0; peer < lanes_in(round); ++peer) {
            const int64_t lane = round * ranks + peer;
            longest = std::max(longest, lane_begin(lane + 1) - lane_begin(lane));
        }
        const std::optional<int64_t> lane = lane_of(rank, round);
        for (int64_t i = 0; i < longest; ++i) {
            const bool has_slot = lane && lane_begin(*lane) + i < lane_begin(*lane + 1);
            mine.push_back(has_slot ? std::optional(lane_begin(*lane) + i) : std::nullopt);
        }
    }
    return mine;
}

double LanePlan::idle_share() const {
    size_t most = 0;
    for (int rank = 0; rank < ranks; ++rank)
        most = std::max(most, slots_of(rank).size());
    return 1.0 - static_cast<double>(slots) / (static_cast<double>(most) * ranks);
}

}  // namespace plinth::parallel
