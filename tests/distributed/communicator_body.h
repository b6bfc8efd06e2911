// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "parallel/comm/communicator.h"
#include "parallel/comm/ranks_of.h"
#include "tests/support/buffers.h"

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

/// The ranks of a test, and where their buffers lie.
struct Setting {
    Communicator& comm;
    BufferMemory& memory;
    size_t large = size_t{5} << 20;  ///< a message of several pieces of a transport
};

/// Sizes differ by pair, some are zero.
inline size_t pair_bytes(int from, int to, size_t unit) {
    return static_cast<size_t>((from + 2 * to) % 3) * unit + static_cast<size_t>(from);
}

/// Starts an all-to-all and keeps its buffers.
struct AllToAll {
    std::vector<Buffer<std::byte>> out, in;
    Pending pending;

    AllToAll(const Setting& at, const std::string& label, size_t unit) {
        Communicator& comm = at.comm;
        std::vector<ConstBytes> sends;
        std::vector<Bytes> receives;
        for (int peer = 0; peer < comm.size(); ++peer) {
            out.emplace_back(at.memory,
                             patterned(comm.rank(), peer, pair_bytes(comm.rank(), peer, unit)));
            in.emplace_back(at.memory, pair_bytes(peer, comm.rank(), unit));
        }
        for (const auto& bytes : out)
            sends.emplace_back(bytes.span());
        for (const auto& bytes : in)
            receives.emplace_back(bytes.span());
        pending = comm.start_all_to_all(label, sends, receives);
    }
    void finish(Communicator& comm) {
        pending.wait();
        for (int peer = 0; peer < comm.size(); ++peer) {
            const std::vector<std::byte> got = in[static_cast<size_t>(peer)].values();
            CHECK(got == patterned(peer, comm.rank(), got.size()), "from rank {}", peer);
        }
    }
};

inline void check_all_to_all(const Setting& at) {
    Communicator& comm = at.comm;
    for (size_t unit : {size_t{0}, size_t{1}, size_t{1000}, at.large})
        AllToAll(at, "all to all", unit).finish(comm);
    // Several under way, awaited in another order than begun, with progress between.
    AllToAll first(at, "first", 100), second(at, "second", 70000), third(at, "third", 9);
    comm.progress();
    second.finish(comm);
    while (!third.pending.test())
        comm.progress();
    third.finish(comm);
    first.finish(comm);
}

inline void check_all_gather(const Setting& at) {
    Communicator& comm = at.comm;
    // That of rank 2 is empty.
    const auto bytes_from = [](int peer) { return static_cast<size_t>((peer + 1) % 3 * 1001); };
    for (const bool in_place : {true, false}) {
        std::vector<Buffer<std::byte>> pieces;
        std::vector<Bytes> places;
        for (int peer = 0; peer < comm.size(); ++peer)
            places.push_back(pieces.emplace_back(at.memory, bytes_from(peer)).span());
        const auto rank = static_cast<size_t>(comm.rank());
        const std::vector<std::byte> mine = patterned(comm.rank(), 0, bytes_from(comm.rank()));
        const Buffer<std::byte> apart(at.memory, mine);
        if (in_place) pieces[rank] = mine;
        comm.all_gather("gather", in_place ? places[rank] : apart.span(), places);
        for (int peer = 0; peer < comm.size(); ++peer) {
            const std::vector<std::byte> piece = pieces[static_cast<size_t>(peer)].values();
            CHECK(piece == patterned(peer, 0, piece.size()), "piece {}", peer);
        }
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
void check_float_sums(const Setting& at) {
    Communicator& comm = at.comm;
    for (size_t count : {size_t{1}, size_t{7}, size_t{1000}}) {
        std::vector<T> values(count), expected(count);
        for (size_t i = 0; i < count; ++i) {
            values[i] = term<T>(comm.rank(), i);
            expected[i] = term<T>(0, i);
            for (int peer = 1; peer < comm.size(); ++peer)
                expected[i] += term<T>(peer, i);
        }
        Buffer<T> summed(at.memory, values);
        comm.all_reduce("sum", summed.span(), Reduce::sum);
        CHECK(std::memcmp(summed.values().data(), expected.data(), count * sizeof(T)) == 0,
              "all_reduce of {} is not the sum in rank order", count);
        for (size_t i = 0; i < count; ++i)
            values[i] = static_cast<T>(comm.rank() * (i % 2 ? -1 : 1));
        summed = values;
        comm.all_reduce("max", summed.span(), Reduce::max);
        values = summed.values();
        CHECK(values[0] == static_cast<T>(comm.size() - 1), "maximum {}", values[0]);
        CHECK(count == 1 || values[1] == T(0), "maximum of negative numbers");
    }
}

inline void check_integers(const Setting& at) {
    Communicator& comm = at.comm;
    // Sums that a double could not hold.
    std::vector<int64_t> values(300000);
    for (size_t i = 0; i < values.size(); ++i)
        values[i] = (int64_t{1} << 60) / comm.size() + comm.rank() + static_cast<int64_t>(i);
    const Buffer<int64_t> summed(at.memory, values);
    comm.all_reduce("integers", summed.span(), Reduce::sum);
    values = summed.values();
    const int64_t n = comm.size();
    for (size_t i = 0; i < values.size(); ++i)
        CHECK(
            values[i] == (int64_t{1} << 60) / n * n + n * (n - 1) / 2 + n * static_cast<int64_t>(i),
            "element {} is {}", i, values[i]);
    const Buffer<int64_t> largest(at.memory, std::vector<int64_t>{-5 - comm.rank()});
    comm.all_reduce("largest", largest.span(), Reduce::max);
    CHECK(largest.values()[0] == -5, "{}", largest.values()[0]);
    // From three ranks on the first addition leaves the range of the type; the last comes back.
    constexpr int64_t limit = std::numeric_limits<int64_t>::max();
    const bool last = comm.rank() == comm.size() - 1;
    const int64_t mine = (comm.rank() == 0 ? limit : 1) - (last ? n : 0);
    const Buffer<int64_t> wrapped(at.memory, std::vector<int64_t>{mine});
    comm.all_reduce("wrapped", wrapped.span(), Reduce::sum);
    CHECK(wrapped.values()[0] == limit - 1, "{}", wrapped.values()[0]);
}

inline void check_broadcast_and_messages(const Setting& at) {
    Communicator& comm = at.comm;
    for (int root = 0; root < comm.size(); ++root)
        for (size_t size : {size_t{0}, size_t{3}, at.large}) {
            Buffer<std::byte> bytes(at.memory, size);
            if (comm.rank() == root) bytes = patterned(root, 1, size);
            comm.broadcast("broadcast", bytes.span(), root);
            CHECK(bytes.values() == patterned(root, 1, size), "broadcast of {} from {}", size,
                  root);
        }
    if (comm.size() == 1) return;
    const int right = (comm.rank() + 1) % comm.size();
    const int left = (comm.rank() + comm.size() - 1) % comm.size();
    // A ring of messages too large to be buffered would deadlock if sent one after the other.
    const size_t ring = at.large / 5 * 6;
    const Buffer<std::byte> in(at.memory, ring);
    const Buffer<std::byte> out(at.memory, patterned(comm.rank(), right, ring));
    comm.send_receive("ring", out.span(), right, in.span(), left);
    CHECK(in.values() == patterned(left, comm.rank(), ring), "ring");
    // Messages of one pair match in the order in which they were started.
    if (comm.rank() == 0) {
        for (size_t i = 0; i < 4; ++i)
            comm.send("numbered",
                      Buffer(at.memory, patterned(0, static_cast<int>(i), 10 + i)).span(), 1);
    } else if (comm.rank() == 1) {
        std::vector<Buffer<std::byte>> got;
        for (size_t i = 0; i < 4; ++i)
            comm.receive("numbered", got.emplace_back(at.memory, 10 + i).span(), 0);
        for (size_t i = 0; i < 4; ++i)
            CHECK(got[i].values() == patterned(0, static_cast<int>(i), 10 + i), "message {}", i);
    }
}

inline void check_groups(const Setting& at) {
    Communicator& comm = at.comm;
    auto parity = comm.split(comm.rank() % 2, "parity");
    auto nested = parity->split(0, "same");
    for (Communicator* group : {parity.get(), nested.get()}) {
        CHECK(group->rank() == comm.rank() / 2, "rank {} in the group", group->rank());
        const Buffer<int64_t> members(at.memory, std::vector<int64_t>{comm.rank()});
        group->all_reduce("members", members.span(), Reduce::sum);
        const int64_t sum = members.values()[0];
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
    const auto part = seen.split(seen.rank() % 2);
    CHECK(
        part->rank() == seen.rank() / 2 && part->size() == (seen.size() + 1 - seen.rank() % 2) / 2,
        "rank {} of {} in a part", part->rank(), part->size());
    CHECK(part->broadcast(std::to_string(seen.rank()), 0) == std::to_string(seen.rank() % 2),
          "broadcast in a part");
}

inline void check_communicator_in(const Setting& at) {
    check_all_to_all(at);
    check_all_gather(at);
    at.memory.clear();
    check_float_sums<float>(at);
    check_float_sums<double>(at);
    check_integers(at);
    at.memory.clear();
    check_broadcast_and_messages(at);
    check_groups(at);
    check_ranks_of(at.comm);
    at.comm.barrier("end");
}

inline void check_communicator(Communicator& comm) {
    HostBuffers memory;
    check_communicator_in({comm, memory});
}

}  // namespace plinth::test
