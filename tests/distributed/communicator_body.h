// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstring>
#include <numeric>
#include <string>
#include <vector>

#include "parallel/comm/communicator.h"
#include "parallel/comm/ranks_of.h"

// What every communicator must do, written once: the unit tests run it over threads, the
// distributed tests over mpirun. A failure throws.
namespace plinth::test {

using parallel::Bytes;
using parallel::Communicator;
using parallel::ConstBytes;
using parallel::Pending;
using parallel::Reduce;

/// Byte i of what `from` sends to `to`: any mix-up of ranks or offsets shows.
inline std::byte pattern(int from, int to, size_t i) {
    return static_cast<std::byte>(
        (static_cast<size_t>(from) * 31 + static_cast<size_t>(to) * 7 + i * 13 + (i >> 9)) & 0xff);
}

inline std::vector<std::byte> patterned(int from, int to, size_t bytes) {
    std::vector<std::byte> result(bytes);
    for (size_t i = 0; i < bytes; ++i)
        result[i] = pattern(from, to, i);
    return result;
}

/// Sizes differ by pair, some are zero, the largest spans several pieces of a transport.
inline size_t pair_bytes(int from, int to, size_t unit) {
    return static_cast<size_t>((from + 2 * to) % 3) * unit + static_cast<size_t>(from);
}

/// Starts an all-to-all and keeps its buffers.
struct AllToAll {
    std::vector<std::vector<std::byte>> out, in;
    Pending pending;

    AllToAll(Communicator& comm, const std::string& label, size_t unit) {
        std::vector<ConstBytes> sends;
        std::vector<Bytes> receives;
        for (int peer = 0; peer < comm.size(); ++peer) {
            out.push_back(patterned(comm.rank(), peer, pair_bytes(comm.rank(), peer, unit)));
            in.emplace_back(pair_bytes(peer, comm.rank(), unit));
        }
        for (auto& bytes : out)
            sends.emplace_back(bytes);
        for (auto& bytes : in)
            receives.emplace_back(bytes);
        pending = comm.start_all_to_all(label, sends, receives);
    }
    void finish(Communicator& comm) {
        pending.wait();
        for (int peer = 0; peer < comm.size(); ++peer) {
            const auto& got = in[static_cast<size_t>(peer)];
            CHECK(got == patterned(peer, comm.rank(), got.size()), "from rank {}", peer);
        }
    }
};

inline void check_all_to_all(Communicator& comm) {
    for (size_t unit : {size_t{0}, size_t{1}, size_t{1000}, size_t{5} << 20})
        AllToAll(comm, "all to all", unit).finish(comm);
    // Several under way, awaited in another order than begun, with progress between.
    AllToAll first(comm, "first", 100), second(comm, "second", 70000), third(comm, "third", 9);
    comm.progress();
    second.finish(comm);
    while (!third.pending.test())
        comm.progress();
    third.finish(comm);
    first.finish(comm);
}

inline void check_all_gather(Communicator& comm) {
    std::vector<std::vector<std::byte>> pieces;
    std::vector<Bytes> places;
    for (int peer = 0; peer < comm.size(); ++peer)
        pieces.emplace_back(static_cast<size_t>(peer * 1001));
    for (auto& piece : pieces)
        places.emplace_back(piece);
    auto& mine = pieces[static_cast<size_t>(comm.rank())];
    mine = patterned(comm.rank(), 0, mine.size());
    places[static_cast<size_t>(comm.rank())] = mine;
    comm.all_gather("in place", mine, places);
    for (int peer = 0; peer < comm.size(); ++peer) {
        const auto& piece = pieces[static_cast<size_t>(peer)];
        CHECK(piece == patterned(peer, 0, piece.size()), "piece {}", peer);
    }
    const std::vector<std::string> names =
        comm.all_gather("names", std::string(static_cast<size_t>(comm.rank()), 'x'));
    for (int peer = 0; peer < comm.size(); ++peer)
        CHECK(names[static_cast<size_t>(peer)] == std::string(static_cast<size_t>(peer), 'x'),
              "name of rank {}", peer);
}

/// Values whose sum depends on the order: large ones that cancel, small ones between.
template <typename T>
T term(int rank, size_t i) {
    const T huge = sizeof(T) == 4 ? T(3e7) : T(3e15);
    const T sign = (rank + static_cast<int>(i)) % 2 ? T(-1) : T(1);
    return sign * huge + T(0.7) * static_cast<T>(rank) + static_cast<T>(i) / T(3);
}

template <typename T>
void check_float_sums(Communicator& comm) {
    for (size_t count : {size_t{1}, size_t{7}, size_t{1000}}) {
        std::vector<T> values(count), expected(count);
        for (size_t i = 0; i < count; ++i) {
            values[i] = term<T>(comm.rank(), i);
            expected[i] = term<T>(0, i);
            for (int peer = 1; peer < comm.size(); ++peer)
                expected[i] += term<T>(peer, i);
        }
        std::vector<size_t> counts;
        const auto ranks = static_cast<size_t>(comm.size());
        for (size_t p = 0; p < ranks; ++p)
            counts.push_back(p + 1 < ranks ? count / ranks / 2 : count - p * (count / ranks / 2));
        std::vector<T> mine(counts[static_cast<size_t>(comm.rank())]);
        comm.reduce_scatter<T>("scatter", values, counts, mine, Reduce::sum);
        comm.all_reduce("sum", std::span(values), Reduce::sum);
        CHECK(std::memcmp(values.data(), expected.data(), count * sizeof(T)) == 0,
              "all_reduce of {} is not the sum in rank order", count);
        const size_t begin = static_cast<size_t>(comm.rank()) * (count / ranks / 2);
        CHECK(std::equal(mine.begin(), mine.end(), expected.begin() + static_cast<long>(begin)),
              "reduce_scatter of {}", count);
        for (size_t i = 0; i < count; ++i)
            values[i] = static_cast<T>(comm.rank() * (i % 2 ? -1 : 1));
        comm.all_reduce("max", std::span(values), Reduce::max);
        CHECK(values[0] == static_cast<T>(comm.size() - 1), "maximum {}", values[0]);
        CHECK(count == 1 || values[1] == T(0), "maximum of negative numbers");
    }
}

inline void check_integers(Communicator& comm) {
    // Sums that a double could not hold.
    std::vector<int64_t> values(300000);
    for (size_t i = 0; i < values.size(); ++i)
        values[i] = (int64_t{1} << 60) / comm.size() + comm.rank() + static_cast<int64_t>(i);
    comm.all_reduce("integers", std::span(values), Reduce::sum);
    const int64_t n = comm.size();
    for (size_t i = 0; i < values.size(); ++i)
        CHECK(
            values[i] == (int64_t{1} << 60) / n * n + n * (n - 1) / 2 + n * static_cast<int64_t>(i),
            "element {} is {}", i, values[i]);
    int64_t largest = -5 - comm.rank();
    comm.all_reduce("largest", std::span(&largest, 1), Reduce::max);
    CHECK(largest == -5, "{}", largest);
}

inline void check_broadcast_and_messages(Communicator& comm) {
    for (int root = 0; root < comm.size(); ++root)
        for (size_t size : {size_t{0}, size_t{3}, size_t{5} << 20}) {
            std::vector<std::byte> bytes(size);
            if (comm.rank() == root) bytes = patterned(root, 1, size);
            comm.broadcast("broadcast", bytes, root);
            CHECK(bytes == patterned(root, 1, size), "broadcast of {} from {}", size, root);
        }
    if (comm.size() == 1) return;
    const int right = (comm.rank() + 1) % comm.size();
    const int left = (comm.rank() + comm.size() - 1) % comm.size();
    // A ring of messages too large to be buffered would deadlock if sent one after the other.
    std::vector<std::byte> in(6u << 20), out = patterned(comm.rank(), right, in.size());
    comm.send_receive("ring", out, right, in, left);
    CHECK(in == patterned(left, comm.rank(), in.size()), "ring");
    // Messages of one pair match in the order in which they were started.
    if (comm.rank() == 0) {
        for (size_t i = 0; i < 4; ++i)
            comm.send("numbered", patterned(0, static_cast<int>(i), 10 + i), 1);
    } else if (comm.rank() == 1) {
        for (size_t i = 0; i < 4; ++i) {
            std::vector<std::byte> got(10 + i);
            comm.receive("numbered", got, 0);
            CHECK(got == patterned(0, static_cast<int>(i), 10 + i), "message {}", i);
        }
    }
}

inline void check_groups(Communicator& comm) {
    auto parity = comm.split(comm.rank() % 2, "parity");
    auto nested = parity->split(0, "same");
    for (Communicator* group : {parity.get(), nested.get()}) {
        CHECK(group->rank() == comm.rank() / 2, "rank {} in the group", group->rank());
        int64_t sum = comm.rank();
        group->all_reduce("members", std::span(&sum, 1), Reduce::sum);
        int64_t expected = 0;
        for (int peer = comm.rank() % 2; peer < comm.size(); peer += 2)
            expected += peer;
        CHECK(sum == expected, "members sum to {}, expected {}", sum, expected);
    }
}

inline void check_ranks_of(Communicator& comm) {
    parallel::RanksOf ranks(comm);
    core::Ranks& seen = ranks;
    const int last = seen.size() - 1;
    CHECK(seen.broadcast(seen.rank() == last ? "from the last" : "", last) == "from the last",
          "broadcast");
    const auto all = seen.gather(std::string(static_cast<size_t>(seen.rank()), 'y'), last);
    CHECK(all.size() == (seen.rank() == last ? static_cast<size_t>(seen.size()) : 0), "gather");
    for (size_t peer = 0; peer < all.size(); ++peer)
        CHECK(all[peer] == std::string(peer, 'y'), "gathered from {}", peer);
    CHECK(seen.all_agree(true), "agreement");
    CHECK(!seen.all_agree(seen.rank() != last), "one rank disagrees");
    seen.barrier();
}

inline void check_communicator(Communicator& comm) {
    check_all_to_all(comm);
    check_all_gather(comm);
    check_float_sums<float>(comm);
    check_float_sums<double>(comm);
    check_integers(comm);
    check_broadcast_and_messages(comm);
    check_groups(comm);
    check_ranks_of(comm);
    comm.barrier("end");
}

}  // namespace plinth::test
