// SPDX-License-Identifier: Apache-2.0
#include "parallel/comm/ranks_of.h"

namespace plinth::parallel {

std::string RanksOf::broadcast(const std::string& bytes, int root) {
    auto length = static_cast<int64_t>(bytes.size());
    communicator_.broadcast("broadcast (length)", std::as_writable_bytes(std::span(&length, 1)),
                            root);
    std::string result = bytes;
    result.resize(static_cast<size_t>(length));
    communicator_.broadcast("broadcast", std::as_writable_bytes(std::span(result)), root);
    return result;
}

std::vector<std::string> RanksOf::gather(const std::string& bytes, int root) {
    std::vector<int64_t> lengths(static_cast<size_t>(size()));
    lengths[static_cast<size_t>(rank())] = static_cast<int64_t>(bytes.size());
    communicator_.all_reduce("gather (lengths)", std::span(lengths), Reduce::sum);
    // Only the root receives: an all-to-all where every rank sends to one.
    std::vector<ConstBytes> sends(lengths.size());
    std::vector<Bytes> receives(lengths.size());
    std::vector<std::string> all;
    sends[static_cast<size_t>(root)] = std::as_bytes(std::span(bytes));
    for (size_t peer = 0; rank() == root && peer < lengths.size(); ++peer)
        all.emplace_back(static_cast<size_t>(lengths[peer]), '\0');
    for (size_t peer = 0; peer < all.size(); ++peer)
        receives[peer] = std::as_writable_bytes(std::span(all[peer]));
    communicator_.all_to_all("gather", sends, receives);
    return all;
}

std::unique_ptr<core::Ranks> RanksOf::split(int color) {
    return std::unique_ptr<core::Ranks>(
        new RanksOf(communicator_.split(color, "part of " + communicator_.name())));
}

}  // namespace plinth::parallel
