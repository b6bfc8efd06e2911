// SPDX-License-Identifier: Apache-2.0
#include "parallel/data_parallel/replica_check.h"

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "core/io/hash.h"
#include "kernels/runtime/device_module.h"

namespace plinth::parallel {

namespace {

/// The hash that most ranks have; of several the one that the lowest rank has.
uint64_t majority(const std::vector<uint64_t>& hashes) {
    std::map<uint64_t, int> votes;
    for (const uint64_t hash : hashes)
        ++votes[hash];
    return *std::max_element(hashes.begin(), hashes.end(),
                             [&](uint64_t a, uint64_t b) { return votes[a] < votes[b]; });
}

}  // namespace

void check_replicas(std::span<const core::StateTensor> tensors, Communicator& communicator,
                    int64_t step) {
    if (communicator.size() == 1) return;  // hashing all weights costs time
    std::vector<uint64_t> mine;
    std::vector<std::byte> on_host;
    for (const core::StateTensor& tensor : tensors) {
        std::span<const std::byte> bytes(static_cast<const std::byte*>(tensor.data),
                                         tensor.bytes());
        if (tensor.device.type != DeviceType::cpu) {
            on_host.resize(bytes.size());
            copy_bytes(on_host.data(), {}, tensor.data, tensor.device, on_host.size());
            bytes = on_host;
        }
        mine.push_back(core::io::xxh3_64(bytes));
    }
    const auto ranks = static_cast<size_t>(communicator.size());
    std::vector<uint64_t> all(mine.size() * ranks);
    std::vector<Bytes> places;
    for (size_t rank = 0; rank < ranks; ++rank)
        places.push_back(
            std::as_writable_bytes(std::span(all).subspan(rank * mine.size(), mine.size())));
    communicator.all_gather("replica hashes", std::as_bytes(std::span(mine)), places);
    for (size_t t = 0; t < mine.size(); ++t) {
        std::vector<uint64_t> hashes;
        for (size_t rank = 0; rank < ranks; ++rank)
            hashes.push_back(all[rank * mine.size() + t]);
        if (std::ranges::count(hashes, hashes[0]) == static_cast<std::ptrdiff_t>(ranks)) continue;
        // Every rank sees the same table and comes here.
        const std::vector<std::string> hosts =
            communicator.all_gather("replica hosts", communicator.host());
        const uint64_t expected = majority(hashes);
        std::vector<std::string> wrong;
        for (size_t rank = 0; rank < ranks; ++rank)
            if (hashes[rank] != expected)
                wrong.push_back(fmt::format("rank {} on {} has {}", rank, hosts[rank],
                                            core::io::to_hex(hashes[rank])));
        FAIL(ranks,
             "step {}: {} is not the same on every rank: {}, most ranks have {}; go on from the "
             "newest checkpoint, without that machine if it happens again",
             step, tensors[t].name, fmt::join(wrong, ", "), core::io::to_hex(expected));
    }
}

}  // namespace plinth::parallel
