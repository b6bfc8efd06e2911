// SPDX-License-Identifier: Apache-2.0
#include "parallel/pipeline_parallel/stages.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "kernels/runtime/error.h"

namespace plinth::parallel {

namespace {

constexpr double impossible = std::numeric_limits<double>::infinity();

/// Embedding, blocks and head as one list.
std::vector<double> in_order(const PartCosts& costs) {
    std::vector<double> list = {costs.embedding};
    list.insert(list.end(), costs.blocks.begin(), costs.blocks.end());
    list.push_back(costs.head);
    for (const double cost : list)
        CHECK(std::isfinite(cost) && cost >= 0.0, "a part of the model costs {}", cost);
    return list;
}

/// The cheapest way to cut a list into `pieces`: dynamic programming from the end, O(pieces n^2).
/// `piece_cost(cost)` values one piece, `join(first, rest)` a piece and what follows it. Returns
/// where each piece begins, and the length; of equal ways the one with the smallest first pieces.
template <typename PieceCost, typename Join>
std::vector<size_t> cut(const std::vector<double>& list, size_t pieces, PieceCost piece_cost,
                        Join join) {
    const size_t n = list.size();
    // best[k][i]: of the parts i .. n - 1 in k pieces; end[k][i]: where the first of them ends.
    std::vector<std::vector<double>> best(pieces + 1, std::vector<double>(n + 1, impossible));
    std::vector<std::vector<size_t>> end(pieces + 1, std::vector<size_t>(n + 1, n));
    best[0][n] = 0.0;
    for (size_t k = 1; k <= pieces; ++k)
        for (size_t i = 0; i + k <= n; ++i) {
            double sum = 0.0;
            for (size_t j = i + 1; j + (k - 1) <= n; ++j) {
                sum += list[j - 1];
                const double value = join(piece_cost(sum), best[k - 1][j]);
                if (value >= best[k][i]) continue;
                best[k][i] = value;
                end[k][i] = j;
            }
        }
    std::vector<size_t> begins = {0};
    for (size_t k = pieces; k > 0; --k)
        begins.push_back(end[k][begins.back()]);
    return begins;
}

double largest_piece(const std::vector<double>& list, const std::vector<size_t>& begins) {
    double largest = 0.0;
    for (size_t k = 0; k + 1 < begins.size(); ++k) {
        const auto first = list.begin() + static_cast<std::ptrdiff_t>(begins[k]);
        const auto last = list.begin() + static_cast<std::ptrdiff_t>(begins[k + 1]);
        largest = std::max(largest, std::accumulate(first, last, 0.0));
    }
    return largest;
}

}  // namespace

std::vector<StageParts> balance_stages(const PartCosts& costs, const ScheduleConfig& schedule) {
    schedule.validate();
    const std::vector<double> list = in_order(costs);
    const auto pieces = static_cast<size_t>(schedule.virtual_stages());
    REQUIRE(config, pieces <= list.size(),
            "parallel.pipeline: {} stages x {} model chunks need {} parts, but the model has {} "
            "(embedding, {} blocks, head): take fewer stages",
            schedule.stages, schedule.chunks, pieces, list.size(), costs.blocks.size());
    const auto pace = cut(
        list, pieces, [](double cost) { return cost; },
        [](double first, double rest) { return std::max(first, rest); });
    const double limit = largest_piece(list, pace);
    const auto begins = cut(
        list, pieces, [limit](double cost) { return cost <= limit ? cost * cost : impossible; },
        [](double first, double rest) { return first + rest; });

    std::vector<int> blocks_of;
    for (size_t k = 0; k < pieces; ++k)
        blocks_of.push_back(static_cast<int>(begins[k + 1] - begins[k]));
    blocks_of.front() -= 1;  // the embedding
    blocks_of.back() -= 1;   // the head
    return given_stages(blocks_of, static_cast<int>(costs.blocks.size()), schedule);
}

std::vector<StageParts> given_stages(const std::vector<int>& blocks_of, int blocks,
                                     const ScheduleConfig& schedule) {
    schedule.validate();
    const auto is_end = [&](size_t k) { return k == 0 || k + 1 == blocks_of.size(); };
    bool fits = blocks_of.size() == static_cast<size_t>(schedule.virtual_stages());
    for (size_t k = 0; k < blocks_of.size(); ++k)
        fits = fits && blocks_of[k] >= (is_end(k) ? 0 : 1);  // the ends have embedding or head
    REQUIRE(config, fits && std::accumulate(blocks_of.begin(), blocks_of.end(), 0) == blocks,
            "parallel.pipeline: the given cut [{}] does not fit: {} stages x {} model chunks need "
            "{} numbers of blocks with the sum {}, each at least 1 (0 in the first and last)",
            fmt::join(blocks_of, ", "), schedule.stages, schedule.chunks, schedule.virtual_stages(),
            blocks);
    std::vector<StageParts> stages;
    int first = 0;
    for (size_t k = 0; k < blocks_of.size(); ++k) {
        stages.push_back({.first_block = first,
                          .blocks = blocks_of[k],
                          .has_embedding = k == 0,
                          .has_head = k + 1 == blocks_of.size()});
        first += blocks_of[k];
    }
    return stages;
}

double cost_of(const StageParts& parts, const PartCosts& costs) {
    const auto first = costs.blocks.begin() + parts.first_block;
    return (parts.has_embedding ? costs.embedding : 0.0) +
           std::accumulate(first, first + parts.blocks, 0.0) + (parts.has_head ? costs.head : 0.0);
}

}  // namespace plinth::parallel
