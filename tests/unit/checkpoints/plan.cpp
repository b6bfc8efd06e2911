// SPDX-License-Identifier: Apache-2.0
#include "checkpoints/plan.h"

#include <gtest/gtest.h>

#include <map>

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
