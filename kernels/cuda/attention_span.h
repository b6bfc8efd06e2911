// SPDX-License-Identifier: Apache-2.0
// Which tiles of keys a tile of queries meets, and the other way round. Without CUDA:
// tests/unit/kernels/attention_span.cpp shows that no pair is missed and no tile is met in vain.
#pragma once

#include <algorithm>

#include "kernels/simd.h"

namespace plinth::kernels::cuda {

/// A run of queries over a run of keys of one sequence. Queries and keys are numbered from 0 in
/// their run.
struct AttentionSpan {
    int queries, keys;
    int first_query, first_key;  ///< positions in the sequence of those numbered 0
    bool causal;
    int window = 0;  ///< as Attention's

    PLINTH_HOST_DEVICE bool sees(int query, int key) const {
        const int distance = first_query + query - first_key - key;
        return (!causal || distance >= 0) && (window == 0 || distance < window);
    }
    /// Whether there are all of the keys [key, key + key_rows), and each of the queries [query,
    /// query
    /// + query_rows) that there are sees them all.
    PLINTH_HOST_DEVICE bool sees_all(int query, int query_rows, int key, int key_rows) const {
        const int last = std::min(query + query_rows, queries) - 1;
        return key + key_rows <= keys && sees(query, key + key_rows - 1) && sees(last, key);
    }
    /// First key of the first tile of `rows` keys that the queries from this one on see; `keys`
    /// where they see none.
    PLINTH_HOST_DEVICE int keys_begin(int query, int rows) const {
        if (window == 0) return 0;
        const int first = std::max(0, first_query + query - window + 1 - first_key);
        return first < keys ? first / rows * rows : keys;
    }
    /// Keys [0, end) are all that the queries [query, query + rows) see.
    PLINTH_HOST_DEVICE int keys_end(int query, int rows) const {
        if (!causal) return keys;
        const int last = std::min(query + rows, queries) - 1;
        return std::max(0, std::min(keys, first_query + last + 1 - first_key));
    }
    /// First query of the first tile of `rows` queries that sees the keys from this one on;
    /// `queries`, or one behind it, where none does.
    PLINTH_HOST_DEVICE int queries_begin(int key, int rows) const {
        if (!causal) return 0;
        const int first = std::max(0, first_key + key - first_query);  // that sees the key
        return (first < queries ? first : queries + rows - 1) / rows * rows;
    }
    /// Queries [0, end) are all that see any of the keys [key, key + rows).
    PLINTH_HOST_DEVICE int queries_end(int key, int rows) const {
        if (window == 0) return queries;
        const int last = first_key + std::min(key + rows, keys) - 1;
        return std::max(0, std::min(queries, last + window - first_query));
    }
};

}  // namespace plinth::kernels::cuda
