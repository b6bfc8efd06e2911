// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/attention_span.h"

#include <gtest/gtest.h>

#include <vector>

namespace plinth::kernels::cuda {
namespace {

constexpr int rows = 8;

/// Runs of equal and of other lengths, before, within, beside and after each other.
std::vector<AttentionSpan> spans() {
    std::vector<AttentionSpan> all;
    for (const bool causal : {true, false})
        for (const int queries : {1, 7, 8, 20})
            for (const int keys : {0, 1, 8, 23})
                for (const int first_query : {0, 3, 8, 40})
                    for (const int first_key : {0, 5, 16, 44, 61})
                        all.push_back({queries, keys, first_query, first_key, causal});
    return all;
}

bool any_sees(const AttentionSpan& span, int query, int key) {
    for (int q = query; q < std::min(query + rows, span.queries); ++q)
        for (int k = key; k < std::min(key + rows, span.keys); ++k)
            if (span.sees(q, k)) return true;
    return false;
}

TEST(AttentionSpan, ATileOfQueriesMeetsTheTilesOfKeysThatItSees) {
    for (const AttentionSpan& span : spans())
        for (int query = 0; query < span.queries; query += rows) {
            const int end = span.keys_end(query, rows);
            EXPECT_GE(end, 0);
            EXPECT_LE(end, span.keys);
            for (int key = 0; key < span.keys; key += rows)
                EXPECT_EQ(any_sees(span, query, key), key < end)
                    << span.queries << " queries from " << span.first_query << ", " << span.keys
                    << " keys from " << span.first_key << ", query " << query << ", key " << key;
        }
}

TEST(AttentionSpan, ATileOfKeysMeetsTheTilesOfQueriesThatSeeIt) {
    for (const AttentionSpan& span : spans())
        for (int key = 0; key < span.keys; key += rows) {
            const int begin = span.queries_begin(key, rows);
            EXPECT_EQ(begin % rows, 0) << "tiles of queries begin where those of the forward do";
            for (int query = 0; query < span.queries; query += rows)
                EXPECT_EQ(any_sees(span, query, key), query >= begin)
                    << span.queries << " queries from " << span.first_query << ", " << span.keys
                    << " keys from " << span.first_key << ", query " << query << ", key " << key;
        }
}

TEST(AttentionSpan, WholeSequences) {
    const AttentionSpan causal{100, 100, 0, 0, true}, both{100, 100, 0, 0, false};
    EXPECT_EQ(causal.keys_end(64, 64), 100);
    EXPECT_EQ(causal.keys_end(0, 64), 64);
    EXPECT_EQ(causal.queries_begin(64, 64), 64);
    EXPECT_EQ(both.keys_end(0, 64), 100);
    EXPECT_EQ(both.queries_begin(64, 64), 0);
}

}  // namespace
}  // namespace plinth::kernels::cuda
