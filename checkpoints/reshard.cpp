// SPDX-License-Identifier: Apache-2.0
#include "checkpoints/reshard.h"

#include <algorithm>

namespace plinth::checkpoints {

using core::Run;
using core::Runs;

std::vector<Overlap> overlaps(const core::Shard& from, const core::Shard& to) {
    std::vector<Overlap> common;
    Runs from_runs(from), to_runs(to);
    Run a, b;
    bool more = from_runs.next(a) && to_runs.next(b);
    while (more) {
        const int64_t begin = std::max(a.global, b.global);
        const int64_t a_end = a.global + a.count, b_end = b.global + b.count;
        const int64_t end = std::min(a_end, b_end);
        if (begin < end)
            common.push_back({a.local + begin - a.global, b.local + begin - b.global, end - begin});
        more = a_end <= b_end ? from_runs.next(a) : to_runs.next(b);
    }
    return common;
}

std::string coverage_problem(const Shape& shape, std::span<const core::Shard> shards) {
    std::vector<Run> runs;
    for (const core::Shard& shard : shards) {
        Runs walk(shard);
        for (Run run; walk.next(run);)
            runs.push_back(run);
    }
    std::sort(runs.begin(), runs.end(),
              [](const Run& a, const Run& b) { return a.global < b.global; });
    int64_t covered = 0;
    for (const Run& run : runs) {
        if (run.global > covered) break;
        if (run.global < covered) return fmt::format("element {} is covered twice", run.global);
        covered += run.count;
    }
    if (covered < shape.elements()) return fmt::format("element {} is missing", covered);
    return {};
}

}  // namespace plinth::checkpoints
