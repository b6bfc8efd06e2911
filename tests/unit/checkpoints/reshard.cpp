// SPDX-License-Identifier: Apache-2.0
#include "checkpoints/reshard.h"

#include <gtest/gtest.h>

#include <random>

namespace plinth::checkpoints::test {
namespace {

/// Global number of each element of a shard, through coordinates.
std::vector<int64_t> elements_of(const core::Shard& shard) {
    std::vector<int64_t> globals;
    for (int64_t i = shard.begin; i < shard.end; ++i) {
        int64_t rest = i, flat = 0, stride = 1;
        for (int dim = shard.global_shape.rank() - 1; dim >= 0; --dim) {
            flat += (rest % shard.local_shape[dim] + shard.offset[dim]) * stride;
            rest /= shard.local_shape[dim];
            stride *= shard.global_shape[dim];
        }
        globals.push_back(flat);
    }
    return globals;
}

core::Shard random_shard(const Shape& shape, std::mt19937& random) {
    const auto draw = [&](int64_t low, int64_t high) {
        return std::uniform_int_distribution<int64_t>(low, high)(random);
    };
    int64_t offset[max_dims] = {}, local[max_dims] = {};
    for (int i = 0; i < shape.rank(); ++i) {
        const bool all = draw(0, 2) == 0;
        offset[i] = all ? 0 : draw(0, shape[i] - 1);
        local[i] = all ? shape[i] : draw(1, shape[i] - offset[i]);
    }
    const auto dims = static_cast<size_t>(shape.rank());
    core::Shard shard{shape, Shape(std::span<const int64_t>(offset, dims)),
                      Shape(std::span<const int64_t>(local, dims)), 0, 0};
    const int64_t n = shard.local_shape.elements();
    shard.begin = draw(0, n);
    shard.end = draw(shard.begin, n);
    return shard;
}

const Shape shapes[] = {
    {}, {1}, {17}, {4, 5}, {3, 1, 4}, {2, 3, 2, 3}, {1, 6, 1}, {2, 1, 2, 2, 1, 3}, {6, 16}};

TEST(Reshard, RunsAreTheShardsElementsInOrder) {
    std::mt19937 random(1);
    for (const Shape& shape : shapes)
        for (int trial = 0; trial < 200; ++trial) {
            const core::Shard shard = random_shard(shape, random);
            std::vector<int64_t> found;
            core::Runs runs(shard);
            for (core::Run run; runs.next(run);) {
                EXPECT_EQ(run.local, static_cast<int64_t>(found.size()));
                for (int64_t i = 0; i < run.count; ++i)
                    found.push_back(run.global + i);
            }
            EXPECT_EQ(found, elements_of(shard)) << shape.text();
        }
}

TEST(Reshard, RowsGiveEachElementsNumber) {
    std::mt19937 random(3);
    int refused = 0;
    for (const Shape& shape : shapes)
        for (int trial = 0; trial < 200; ++trial) {
            const core::Shard shard = random_shard(shape, random);
            if (shard.elements() == 0) continue;
            try {
                const ElementRows rows = core::Runs(shard).as_rows();
                EXPECT_TRUE(rows.is_sound());
                const std::vector<int64_t> expected = elements_of(shard);
                int64_t end = 0;  // of the row
                for (int64_t i = 0; i < shard.elements(); ++i) {
                    const auto at = static_cast<size_t>(i);
                    ASSERT_EQ(rows[i], expected[at]) << shape.text();
                    if (i == end) end = rows.row_end(i);
                    ASSERT_GT(end, i);
                    if (i + 1 < end && at + 1 < expected.size()) {
                        ASSERT_EQ(expected[at + 1], expected[at] + 1) << shape.text();
                    }
                }
                const auto quadruple = [&](size_t at) {
                    return expected[at] % 4 == 0 && expected[at + 3] == expected[at] + 3;
                };
                for (size_t at = 0; rows.keeps_quadruples() && at + 3 < expected.size(); at += 4)
                    ASSERT_TRUE(quadruple(at)) << shape.text();
            } catch (const Error& error) {
                EXPECT_GT(shape.rank(), 2) << error.what();
                ++refused;
            }
        }
    EXPECT_GT(refused, 0) << "boxes of more dims, cut in several";
}

TEST(Reshard, AWholeTensorIsOneRun) {
    core::Runs runs(core::Shard::whole({3, 4, 5}));
    core::Run run;
    ASSERT_TRUE(runs.next(run));
    EXPECT_EQ(run.count, 60);
    EXPECT_FALSE(runs.next(run));
}

TEST(Reshard, OverlapsAreTheCommonElements) {
    std::mt19937 random(2);
    for (const Shape& shape : shapes)
        for (int trial = 0; trial < 200; ++trial) {
            const core::Shard from = random_shard(shape, random), to = random_shard(shape, random);
            const auto a = elements_of(from), b = elements_of(to);
            std::vector<int64_t> found(b.size(), -1), expected(b.size(), -1);
            for (const Overlap& part : overlaps(from, to))
                for (int64_t i = 0; i < part.count; ++i)
                    found.at(static_cast<size_t>(part.to + i)) =
                        a.at(static_cast<size_t>(part.from + i));
            for (size_t i = 0; i < b.size(); ++i)
                if (std::find(a.begin(), a.end(), b[i]) != a.end()) expected[i] = b[i];
            EXPECT_EQ(found, expected);
        }
}

TEST(Reshard, CoverageNamesTheElement) {
    const Shape shape{4, 6};
    core::Shard left = core::Shard::whole(shape), right = left;
    left.local_shape = {4, 2};
    left.end = 8;
    right.offset = {0, 2};
    right.local_shape = {4, 4};
    right.end = 16;
    const auto problem = [&](std::vector<core::Shard> shards) {
        return coverage_problem(shape, shards);
    };
    EXPECT_EQ(problem({right, left}), "");
    EXPECT_EQ(problem({left}), "element 2 is missing");
    EXPECT_EQ(problem({}), "element 0 is missing");
    EXPECT_EQ(problem({left, right, left}), "element 0 is covered twice");
    right.end = 15;
    EXPECT_EQ(problem({left, right}), "element 23 is missing");
    EXPECT_EQ(coverage_problem({0, 3}, {}), "");
}

}  // namespace
}  // namespace plinth::checkpoints::test
