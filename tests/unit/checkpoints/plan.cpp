// SPDX-License-Identifier: Apache-2.0
#include "checkpoints/plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <utility>

#include "checkpoints/format.h"

namespace plinth::checkpoints::test {
namespace {

RankTables replicas(int ranks, const std::vector<Piece>& table, int ranks_per_node) {
    RankTables tables{{table}, std::vector<size_t>(static_cast<size_t>(ranks), 0), {}};
    for (int rank = 0; rank < ranks; ++rank)
        tables.node_of_rank.push_back(fmt::format("node-{}", rank / ranks_per_node));
    return tables;
}

Piece whole(const std::string& name, const Shape& shape) {
    return {name, DType::f32, core::Shard::whole(shape), 0, {}};
}

TEST(Plan, ReplicasAreWrittenOnceAndInParallel) {
    const SavePlan plan = make_plan(replicas(4, {whole("a", {100, 1024})}, 4), 1 << 30);
    std::map<int, int64_t> elements;
    for (const PlannedPiece& planned : plan.pieces) {
        EXPECT_EQ(planned.piece.shard.begin % cut_elements, 0);
        elements[planned.rank] += planned.piece.shard.elements();
    }
    EXPECT_EQ(elements, (std::map<int, int64_t>{{0, 25600}, {1, 25600}, {2, 25600}, {3, 25600}}));
    EXPECT_EQ(plan.file_sizes, (std::vector<uint64_t>{2 * 64 + 4 * 102400}));
}

TEST(Plan, SmallTensorsSpreadOverRanks) {
    std::vector<Piece> table;
    for (int i = 0; i < 40; ++i)
        table.push_back(whole(fmt::format("norm.{:02}", i), {768}));
    std::map<int, int> pieces;
    for (const PlannedPiece& planned : make_plan(replicas(4, table, 4), 1 << 30).pieces)
        ++pieces[planned.rank];
    EXPECT_EQ(pieces, (std::map<int, int>{{0, 10}, {1, 10}, {2, 10}, {3, 10}}));
}

/// Of rank r of `data` x 2 ranks, whose tensor axis varies fastest: `tensors` small ones, of which
/// tensor ranks have a half each, and one that all have.
RankTables tensor_and_data(int data, int tensors) {
    RankTables tables;
    for (const int64_t tensor_rank : {0, 1}) {
        std::vector<Piece> table{whole("norm", {768})};
        for (int i = 0; i < tensors; ++i) {
            Piece half = whole(fmt::format("small.{:02}", i), {16, 32});
            half.shard.offset = {8 * tensor_rank, 0};
            half.shard.local_shape = {8, 32};
            half.shard.end = half.shard.local_shape.elements();
            table.push_back(half);
        }
        tables.tables.push_back(table);
    }
    for (int rank = 0; rank < 2 * data; ++rank) {
        tables.table_of_rank.push_back(static_cast<size_t>(rank) % 2);
        tables.node_of_rank.emplace_back("node");
    }
    return tables;
}

/// What the rank that writes the most writes, beside the mean of `ranks`.
double most_to_mean(const std::vector<PlannedPiece>& pieces, size_t ranks) {
    std::vector<uint64_t> bytes(ranks, 0);
    uint64_t sum = 0;
    for (const PlannedPiece& planned : pieces) {
        bytes[static_cast<size_t>(planned.rank)] += planned.piece.bytes();
        sum += planned.piece.bytes();
    }
    return static_cast<double>(*std::ranges::max_element(bytes)) * static_cast<double>(ranks) /
           static_cast<double>(sum);
}

TEST(Plan, SmallTensorsOfTensorRanksSpreadOverTheirDataRanks) {
    for (const int data : {2, 3, 4}) {
        const SavePlan plan = make_plan(tensor_and_data(data, 24), 1 << 30);
        EXPECT_LE(most_to_mean(plan.pieces, static_cast<size_t>(2 * data)), 1.25) << data;
        // The mutant: each piece to the next of its holders, by one count for the holders of all.
        std::vector<PlannedPiece> in_turn = plan.pieces;
        std::ranges::sort(in_turn, {}, [](const PlannedPiece& planned) {
            return std::pair(planned.piece.tensor, planned.piece.shard.offset[0]);
        });
        for (size_t i = 0; i < in_turn.size(); ++i) {
            const int tensor_rank = in_turn[i].rank % 2, turn = static_cast<int>(i) % data;
            in_turn[i].rank = 2 * turn + tensor_rank;
        }
        if (data % 2 == 0) {
            EXPECT_GE(most_to_mean(in_turn, static_cast<size_t>(2 * data)), 1.8) << data;
        }
    }
}

TEST(Plan, WhatOneRankAloneHoldsIsCountedFirst) {
    RankTables tables{{{whole("a", {768})}, {whole("z", {1000, 1024})}}, {0, 1, 0}, {}};
    tables.tables[1].push_back(whole("a", {768}));
    tables.node_of_rank.assign(3, "node");
    for (const PlannedPiece& planned : make_plan(tables, 1 << 30).pieces)
        EXPECT_EQ(planned.rank, planned.piece.tensor == "a" ? 0 : 1) << planned.piece.tensor;
}

TEST(Plan, FilesBelongToANodeAndHaveALimit) {
    constexpr uint64_t limit = 4 << 20;
    const SavePlan plan =
        make_plan(replicas(4, {whole("a", {3 << 20}), whole("b", {1000})}, 2), limit);
    std::map<uint64_t, std::string> node_of_file;
    uint64_t offset = 0, file = 0, bytes = 0;
    for (const PlannedPiece& planned : plan.pieces) {
        const std::string node = planned.rank < 2 ? "0" : "1";
        EXPECT_EQ(node_of_file.try_emplace(planned.file, node).first->second, node);
        if (planned.file != file || offset == 0) offset = superblock_bytes;
        file = planned.file;
        EXPECT_EQ(planned.piece.offset, offset);
        offset += padded(planned.piece.bytes());
        bytes += planned.piece.bytes();
        EXPECT_LE(offset + superblock_bytes, limit);
    }
    EXPECT_EQ(bytes, 4u * ((3 << 20) + 1000));
    EXPECT_GE(plan.file_sizes.size(), 4u);
    for (const uint64_t size : plan.file_sizes)
        EXPECT_LE(size, limit);
}

TEST(Plan, RanksMustAgreeOnATensor) {
    RankTables tables = replicas(2, {whole("a", {4})}, 2);
    tables.tables.push_back({whole("a", {5})});
    tables.table_of_rank[1] = 1;
    EXPECT_THROW(make_plan(tables, 1 << 30), Error);
}

}  // namespace
}  // namespace plinth::checkpoints::test
