// SPDX-License-Identifier: Apache-2.0
#include "launch/host_memory.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <sstream>
#include <vector>

#include "kernels/runtime/error.h"

namespace plinth::launch {

namespace {

std::vector<HostShare> shares_of_all(core::Ranks& ranks, const HostShare& mine) {
    constexpr int64_t unknown = -1;
    const std::string line =
        fmt::format("{} {} {}\n", mine.needed, mine.free.value_or(unknown), mine.machine);
    const std::vector<std::string> lines = ranks.gather(line, 0);
    std::istringstream all(ranks.broadcast(fmt::format("{}", fmt::join(lines, "")), 0));
    std::vector<HostShare> shares;
    for (std::string each; std::getline(all, each);) {
        std::istringstream words(each);
        HostShare share;
        int64_t free = unknown;
        words >> share.needed >> free;
        words.ignore();
        std::getline(words, share.machine);
        if (free != unknown) share.free = free;
        shares.push_back(share);
    }
    return shares;
}

/// All ranks of one machine.
struct Machine {
    std::vector<size_t> ranks;
    int64_t needed = 0;
    std::optional<int64_t> free;
};

std::map<std::string, Machine> machines_of(const std::vector<HostShare>& shares) {
    std::map<std::string, Machine> machines;
    for (size_t rank = 0; rank < shares.size(); ++rank) {
        const HostShare& share = shares[rank];
        Machine& machine = machines[share.machine];
        machine.ranks.push_back(rank);
        machine.needed += share.needed;
        if (share.free) machine.free = std::min(machine.free.value_or(*share.free), *share.free);
    }
    return machines;
}

struct Advice {
    std::vector<std::string> keys, fixes;
};

Advice advice_for(const RunConfig& config) {
    Advice advice;
    if (config.optimizer.offload != OptimizerOffload::none) {
        advice.keys.emplace_back("optimizer.offload=states");
        advice.fixes.emplace_back(
            "share the states among more machines (parallel.zero=1), or set "
            "optimizer.offload=none");
    }
    if (config.train.offload_activations) {
        advice.keys.emplace_back("train.offload_activations=true");
        advice.fixes.emplace_back(
            "a smaller train.micro_batch, or train.offload_activations=false");
    }
    return advice;
}

}  // namespace

bool offloads(const RunConfig& config) {
    return config.optimizer.offload != OptimizerOffload::none || config.train.offload_activations;
}

void require_host_memory(const RunConfig& config, core::Ranks& ranks, const HostShare& mine) {
    const std::vector<HostShare> shares = shares_of_all(ranks, mine);
    for (const auto& [name, machine] : machines_of(shares)) {
        if (!machine.free || machine.needed <= *machine.free) continue;
        const Advice advice = advice_for(config);
        const size_t rank = machine.ranks.front();
        const std::string others =
            machine.ranks.size() > 1
                ? fmt::format(", {} with the {} other{} there", machine.needed,
                              machine.ranks.size() - 1, machine.ranks.size() == 2 ? "" : "s")
                : "";
        FAIL(io,
             "{}: rank {} on {} needs {} bytes of host memory{}, and {} are free there: free {} "
             "more, or {}",
             fmt::join(advice.keys, ", "), rank, name, shares[rank].needed, others, *machine.free,
             machine.needed - *machine.free, fmt::join(advice.fixes, "; "));
    }
}

}  // namespace plinth::launch
