// SPDX-License-Identifier: Apache-2.0
#include "checkpoints/plan.h"

#include <algorithm>
#include <map>

#include "checkpoints/reshard.h"
#include "kernels/runtime/error.h"

namespace plinth::checkpoints {

namespace {

/// Ranks that hold the same part of a tensor.
struct Replicas {
    core::Shard shard;
    std::vector<int> holders;
};

struct TensorHolders {
    TensorInfo info;
    std::vector<Replicas> parts;
    std::multimap<int64_t, size_t> by_begin;  ///< optimizer shards make many parts

    Replicas& part(const core::Shard& shard) {
        const auto [first, last] = by_begin.equal_range(shard.begin);
        const auto same = std::find_if(
            first, last, [&](const auto& one) { return parts[one.second].shard == shard; });
        if (same != last) return parts[same->second];
        by_begin.emplace(shard.begin, parts.size());
        return parts.emplace_back(Replicas{shard, {}});
    }
};

std::map<std::string, TensorHolders> find_holders(const RankTables& ranks) {
    std::map<std::string, TensorHolders> tensors;
    for (size_t rank = 0; rank < ranks.table_of_rank.size(); ++rank) {
        for (const Piece& piece : ranks.tables[ranks.table_of_rank[rank]]) {
            const TensorInfo info{piece.tensor, piece.dtype, piece.shard.global_shape};
            TensorHolders& tensor =
                tensors.try_emplace(piece.tensor, TensorHolders{info, {}, {}}).first->second;
            CHECK(tensor.info == info, "tensor {} is {} {} on rank {} and {} {} on another",
                  piece.tensor, name_of(info.dtype), info.global_shape.text(), rank,
                  name_of(tensor.info.dtype), tensor.info.global_shape.text());
            if (piece.shard.elements() == 0) continue;
            Replicas& same = tensor.part(piece.shard);
            same.holders.push_back(static_cast<int>(rank));
        }
    }
    return tensors;
}

/// Hands out pieces such that all ranks write about as much.
class Dealer {
  public:
    explicit Dealer(size_t ranks) : of_rank_(ranks), bytes_(ranks, 0) {}

    /// What one rank alone holds is its own to write.
    void count(const TensorInfo& info, const Replicas& replicas) {
        if (replicas.holders.size() == 1)
            bytes_of(replicas.holders.front()) += bytes(info, replicas);
    }

    /// As many parts as there are holders, each to the one that has the fewest bytes so far, of
    /// equals to the lowest rank.
    void deal(const TensorInfo& info, const Replicas& replicas) {
        const auto parts = static_cast<int64_t>(replicas.holders.size());
        const core::Shard& whole = replicas.shard;
        const int64_t cuts = (whole.elements() + cut_elements - 1) / cut_elements;
        for (int64_t part = 0; part < parts; ++part) {
            Piece piece{info.name, info.dtype, whole, 0, {}};
            piece.shard.begin = whole.begin + cuts * part / parts * cut_elements;
            piece.shard.end =
                std::min(whole.end, whole.begin + cuts * (part + 1) / parts * cut_elements);
            if (piece.shard.begin >= piece.shard.end) continue;
            const int rank = *std::ranges::min_element(
                replicas.holders, {}, [&](int holder) { return bytes_of(holder); });
            if (parts > 1) bytes_of(rank) += piece.bytes();
            of_rank_[static_cast<size_t>(rank)].push_back(std::move(piece));
        }
    }

    std::vector<std::vector<Piece>>& of_rank() { return of_rank_; }

  private:
    uint64_t& bytes_of(int rank) { return bytes_[static_cast<size_t>(rank)]; }
    static uint64_t bytes(const TensorInfo& info, const Replicas& replicas) {
        return static_cast<uint64_t>(replicas.shard.elements()) * size_of(info.dtype);
    }

    std::vector<std::vector<Piece>> of_rank_;
    std::vector<uint64_t> bytes_;
};

/// Lays pieces one after the other into files that all belong to one node.
class FilePacker {
  public:
    FilePacker(SavePlan& plan, uint64_t file_bytes) : plan_(plan), limit_(file_bytes) {}

    /// A piece that does not fit is cut at a checksum block.
    void add(int rank, Piece piece) {
        while (piece.shard.begin < piece.shard.end) {
            if (!open_ || room() < std::min(padded(piece.bytes()), block_bytes)) start_file();
            Piece part = piece;
            if (padded(piece.bytes()) > room()) {
                const uint64_t bytes = room() / block_bytes * block_bytes;
                part.shard.end =
                    part.shard.begin + static_cast<int64_t>(bytes / size_of(part.dtype));
            }
            uint64_t& size = plan_.file_sizes.back();
            part.offset = size - superblock_bytes;
            size += padded(part.bytes());
            piece.shard.begin = part.shard.end;
            plan_.pieces.push_back({rank, plan_.file_sizes.size() - 1, std::move(part)});
        }
    }

  private:
    uint64_t room() const { return limit_ - plan_.file_sizes.back(); }
    void start_file() {
        plan_.file_sizes.push_back(2 * superblock_bytes);
        open_ = true;
    }

    SavePlan& plan_;
    uint64_t limit_;
    bool open_ = false;
};

}  // namespace

RankTables exchange_tables(core::Ranks& ranks, std::span<const core::StateTensor> tensors,
                           const std::string& node) {
    // Sent once a distinct table: with pure data parallelism that is one table for all ranks.
    const auto tables = ranks.gather(encode_table(tensors), 0);
    const auto nodes = ranks.gather(node, 0);
    RankTables all;
    std::vector<std::string> distinct;
    std::string numbers;
    if (ranks.rank() == 0) {
        for (const std::string& table : tables) {
            const auto found = std::find(distinct.begin(), distinct.end(), table);
            numbers += fmt::format("{}\n", found - distinct.begin());
            if (found == distinct.end()) distinct.push_back(table);
        }
    }
    const std::string table_numbers = ranks.broadcast(numbers, 0);
    for (size_t at = 0; at < table_numbers.size(); at = table_numbers.find('\n', at) + 1)
        all.table_of_rank.push_back(std::stoul(table_numbers.substr(at)));
    const size_t count = *std::max_element(all.table_of_rank.begin(), all.table_of_rank.end()) + 1;
    distinct.resize(count);
    for (const std::string& table : distinct)
        all.tables.push_back(decode_table(ranks.broadcast(table, 0)));
    for (int rank = 0; rank < ranks.size(); ++rank)
        all.node_of_rank.push_back(
            ranks.broadcast(ranks.rank() == 0 ? nodes[static_cast<size_t>(rank)] : "", 0));
    return all;
}

SavePlan make_plan(const RankTables& ranks, uint64_t file_bytes) {
    SavePlan plan;
    Dealer dealer(ranks.table_of_rank.size());
    const std::map<std::string, TensorHolders> tensors = find_holders(ranks);
    for (const auto& [name, tensor] : tensors)
        for (const Replicas& replicas : tensor.parts)
            dealer.count(tensor.info, replicas);
    for (const auto& [name, tensor] : tensors) {
        std::vector<core::Shard> shards;
        for (const Replicas& replicas : tensor.parts) {
            shards.push_back(replicas.shard);
            dealer.deal(tensor.info, replicas);
        }
        const std::string problem = coverage_problem(tensor.info.global_shape, shards);
        CHECK(problem.empty(), "the ranks' shards of tensor {} are not a partition: {}", name,
              problem);
        plan.tensors.push_back(tensor.info);
    }
    std::map<std::string, std::vector<size_t>> nodes;
    for (size_t rank = 0; rank < dealer.of_rank().size(); ++rank)
        nodes[ranks.node_of_rank[rank]].push_back(rank);
    for (const auto& [node, members] : nodes) {
        FilePacker packer(plan, file_bytes);
        for (const size_t rank : members)
            for (Piece& piece : dealer.of_rank()[rank])
                packer.add(static_cast<int>(rank), std::move(piece));
    }
    return plan;
}

}  // namespace plinth::checkpoints
