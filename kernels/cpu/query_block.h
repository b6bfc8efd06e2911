// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/cpu/attention_blocks.h"

namespace plinth::kernels::cpu {

/// Queries of one (sample, head) at positions [query, query + queries) of their sequence: their
/// running maxima and sums, and the output before division.
template <typename T>
class QueryBlock {
  public:
    /// The queries are rows [first_row, first_row + block.queries) of q.
    QueryBlock(HeadRows<const T> q, int64_t first_row, Block block, float scale);

    /// Goes on where `finish` left off: y and log_sum of these queries over other keys.
    void resume(HeadRows<const float> y, int64_t first_row, const float* log_sum);
    /// Meets `count` keys and values, from row `row` and position `position` on.
    void meet(HeadRows<const T> k, HeadRows<const T> v, int64_t row, int64_t position,
              int64_t count, const HeadMask& mask);
    /// Meets keys and values at positions [first, last), which lie in rows from 0 on, as far as the
    /// mask lets the queries see them.
    void meet_all(HeadRows<const T> k, HeadRows<const T> v, int64_t first, int64_t last,
                  const HeadMask& mask);
    /// Rows of y, and the log of each query's sum of exponentials where it is wanted.
    template <typename Y>
    void finish(HeadRows<Y> y, int64_t first_row, float* log_sum) const {
        for (int64_t i = 0; i < block_.queries; ++i)
            store_rows(y, first_row + i, 1, out_ + i * padded_, inverse_of_sum(i));
        if (log_sum) store_log_sums(log_sum);
    }

  private:
    void take_exponentials(int64_t diagonal);
    float inverse_of_sum(int64_t query) const {
        return sum_[query] > 0.0f ? 1.0f / sum_[query] : 0.0f;
    }
    void store_log_sums(float* log_sum) const;

    Block block_;
    int64_t lanes_, width_, padded_;
    Scratch scratch_;
    float* queries_ = scratch_.get();               ///< [K][lanes], scaled
    float* out_ = queries_ + lanes_ * padded_;      ///< [queries][K]
    float* scores_ = out_ + lanes_ * padded_;       ///< [keys][lanes]
    float* keys_ = scores_ + block_keys * lanes_;   ///< [keys][K]
    float* values_ = keys_ + block_keys * padded_;  ///< [keys][K]
    float largest_[block_queries], sum_[block_queries];
};

}  // namespace plinth::kernels::cpu
