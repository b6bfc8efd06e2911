// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/attention_span.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <string>
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
                        for (const int window : {0, 1, 5, 8, 30, 1 << 30})
                            if (causal || window == 0)
                                all.push_back(
                                    {queries, keys, first_query, first_key, causal, window});
    return all;
}

std::string text_of(const AttentionSpan& span) {
    return fmt::format("{} queries from {}, {} keys from {}, window {}", span.queries,
                       span.first_query, span.keys, span.first_key, span.window);
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
            const int begin = span.keys_begin(query, rows), end = span.keys_end(query, rows);
            EXPECT_GE(end, 0);
            EXPECT_LE(end, span.keys);
            EXPECT_TRUE(begin % rows == 0 || begin == span.keys) << "tiles of keys begin at 0";
            for (int key = 0; key < span.keys; key += rows)
                EXPECT_EQ(any_sees(span, query, key), key >= begin && key < end)
                    << text_of(span) << ", query " << query << ", key " << key;
        }
}

TEST(AttentionSpan, ATileOfKeysMeetsTheTilesOfQueriesThatSeeIt) {
    for (const AttentionSpan& span : spans())
        for (int key = 0; key < span.keys; key += rows) {
            const int begin = span.queries_begin(key, rows), end = span.queries_end(key, rows);
            EXPECT_EQ(begin % rows, 0) << "tiles of queries begin where those of the forward do";
            for (int query = 0; query < span.queries; query += rows)
                EXPECT_EQ(any_sees(span, query, key), query >= begin && query < end)
                    << text_of(span) << ", query " << query << ", key " << key;
        }
}

bool all_see(const AttentionSpan& span, int query, int query_rows, int key, int key_rows) {
    for (int q = query; q < std::min(query + query_rows, span.queries); ++q)
        for (int k = key; k < key + key_rows; ++k)
            if (k >= span.keys || !span.sees(q, k)) return false;
    return true;
}

TEST(AttentionSpan, NoMaskIsNeededWhereAllAreSeen) {
    int with = 0, without = 0;
    for (const AttentionSpan& span : spans())
        for (const int query_rows : {4, 8})
            for (const int key_rows : {4, 8})
                for (int query = 0; query < span.queries; query += query_rows)
                    for (int key = 0; key < span.keys; key += key_rows) {
                        const bool all = all_see(span, query, query_rows, key, key_rows);
                        ++(all ? without : with);
                        EXPECT_EQ(span.sees_all(query, query_rows, key, key_rows), all)
                            << text_of(span) << ", query " << query << ", key " << key;
                    }
    EXPECT_GT(with, 1000);
    EXPECT_GT(without, 1000);
}

TEST(AttentionSpan, WholeSequences) {
    const AttentionSpan causal{100, 100, 0, 0, true}, both{100, 100, 0, 0, false};
    EXPECT_EQ(causal.keys_end(64, 64), 100);
    EXPECT_EQ(causal.keys_end(0, 64), 64);
    EXPECT_EQ(causal.queries_begin(64, 64), 64);
    EXPECT_EQ(both.keys_end(0, 64), 100);
    EXPECT_EQ(both.queries_begin(64, 64), 0);
    const AttentionSpan window{200, 200, 0, 0, true, 65};
    EXPECT_EQ(window.keys_begin(128, 64), 64);
    EXPECT_EQ(window.queries_end(0, 64), 128);
}

}  // namespace
}  // namespace plinth::kernels::cuda
