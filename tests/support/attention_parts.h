// SPDX-License-Identifier: Apache-2.0
// Attention of a sequence in parts: queries and keys are cut at the same tokens, and each run of
// queries meets every run of keys, one after the other.
#pragma once

#include <algorithm>
#include <vector>

#include "kernels/attention_part.h"

namespace plinth::test {

/// Some tokens of a sequence.
struct TokenRun {
    int64_t first, count;

    template <typename V>
    V of(V view, int dim = 1) const {
        return view.narrow(dim, first, count);
    }
};

/// Begin at multiples of four; some may be empty.
inline std::vector<TokenRun> token_runs(int64_t tokens, int64_t parts) {
    std::vector<TokenRun> runs;
    int64_t first = 0;
    for (int64_t i = 1; i <= parts; ++i) {
        const int64_t end = i == parts ? tokens : std::max(first, tokens * i / parts / 4 * 4);
        runs.push_back({first, end - first});
        first = end;
    }
    return runs;
}

/// Calls body(queries, keys, part) for each run of queries with every run of keys, beginning with
/// the one `turn` further on; keys of run `left_out` are forgotten.
template <typename Body>
void for_attention_parts(int64_t tokens, int64_t parts, int64_t turn, Body&& body,
                         int64_t left_out = -1) {
    const std::vector<TokenRun> runs = token_runs(tokens, parts);
    for (int64_t q = 0; q < parts; ++q) {
        bool begins = true;
        for (int64_t i = 0; i < parts; ++i) {
            const int64_t k = (q + turn + i) % parts;
            const TokenRun queries = runs[static_cast<size_t>(q)],
                           keys = runs[static_cast<size_t>(k)];
            if (k == left_out || queries.count == 0 || keys.count == 0) continue;
            body(queries, keys, kernels::AttentionPart{queries.first, keys.first, tokens, begins});
            begins = false;
        }
    }
}

}  // namespace plinth::test
