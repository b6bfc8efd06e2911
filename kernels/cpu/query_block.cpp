// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/query_block.h"

#include <cmath>

#include "kernels/math.h"
#include "kernels/simd.h"

namespace plinth::kernels::cpu {

namespace {

constexpr float minus_infinity = -std::numeric_limits<float>::infinity();

PLINTH_SIMD void largest_over_keys(float* largest, const float* scores, int64_t lanes, int64_t keys,
                                   int64_t diagonal) {
    for (int64_t row = 0; row < keys; ++row) {
        const float* score = scores + row * lanes;
        for (int64_t lane = first_lane_of(diagonal, row); lane < lanes; ++lane)
            largest[lane] = score[lane] > largest[lane] ? score[lane] : largest[lane];
    }
}

/// scores = e^(scores - largest); sum += them, key by key.
PLINTH_SIMD void exponentials(float* scores, float* sum, const float* largest, int64_t lanes,
                              int64_t keys, int64_t diagonal) {
    for (int64_t row = 0; row < keys; ++row) {
        float* score = scores + row * lanes;
        for (int64_t lane = first_lane_of(diagonal, row); lane < lanes; ++lane) {
            score[lane] = exp_of(score[lane] - largest[lane]);
            sum[lane] += score[lane];
        }
    }
}

}  // namespace

template <typename T>
QueryBlock<T>::QueryBlock(HeadRows<const T> q, int64_t first_row, Block block, float scale)
    : block_(block),
      lanes_(block.lanes()),
      width_(q.width),
      padded_(padded_to_lanes(q.width)),
      scratch_(2 * lanes_ * padded_ + block_keys * (lanes_ + 2 * padded_)) {
    // The output's place holds the queries as rows until they are transposed.
    copy_rows(out_, q, first_row, block.queries, scale);
    std::fill(out_ + block.queries * padded_, out_ + lanes_ * padded_, 0.0f);
    transpose_rows(queries_, out_, width_, lanes_);
    std::fill(out_, out_ + lanes_ * padded_, 0.0f);
    std::fill_n(largest_, lanes_, minus_infinity);
    std::fill_n(sum_, lanes_, 0.0f);
}

template <typename T>
void QueryBlock<T>::resume(HeadRows<const float> y, int64_t first_row, const float* log_sum) {
    // Of a row that has seen keys, log_sum serves as the maximum, beside a sum of 1.
    copy_rows(out_, y, first_row, block_.queries, 1.0f);
    std::copy_n(log_sum, block_.queries, largest_);
    for (int64_t i = 0; i < block_.queries; ++i)
        sum_[i] = log_sum[i] == minus_infinity ? 0.0f : 1.0f;
}

template <typename T>
void QueryBlock<T>::meet(HeadRows<const T> k, HeadRows<const T> v, int64_t row, int64_t position,
                         int64_t count, const HeadMask& mask) {
    block_.key = position;
    block_.keys = count;
    if (!mask.touches(block_)) return;
    copy_rows(keys_, k, row, count, 1.0f);
    copy_rows(values_, v, row, count, 1.0f);
    block_scores(scores_, keys_, queries_, width_, block_, mask);
    mask_scores(scores_, block_, mask);
    take_exponentials(mask.diagonal(block_));
    if (mask.dropout > 0.0f) drop_weights(scores_, block_, mask);
    sum_over_keys(out_, scores_, values_, padded_, block_, mask);
}

template <typename T>
void QueryBlock<T>::meet_all(HeadRows<const T> k, HeadRows<const T> v, int64_t first, int64_t last,
                             const HeadMask& mask) {
    const int64_t limit = mask.key_limit(block_, last);
    for (int64_t key = mask.first_key(block_, first); key < limit; key += block_keys)
        meet(k, v, key - first, key, std::min(block_keys, limit - key), mask);
}

template <typename T>
void QueryBlock<T>::store_log_sums(float* log_sum) const {
    for (int64_t i = 0; i < block_.queries; ++i)
        log_sum[i] = largest_[i] + std::log(sum_[i]);
}

template <typename T>
void QueryBlock<T>::take_exponentials(int64_t diagonal) {
    float before[block_queries], finite[block_queries], sum[block_queries] = {};
    std::copy_n(largest_, lanes_, before);
    largest_over_keys(largest_, scores_, lanes_, block_.keys, diagonal);
    for (int64_t i = 0; i < lanes_; ++i)  // a row may have seen only masked keys so far
        finite[i] = largest_[i] == minus_infinity ? 0.0f : largest_[i];
    exponentials(scores_, sum, finite, lanes_, block_.keys, diagonal);
    for (int64_t i = 0; i < lanes_; ++i) {
        if (before[i] == largest_[i]) {
            sum_[i] += sum[i];
            continue;
        }
        const float shrink = exp_of(before[i] - finite[i]);
        sum_[i] = __builtin_fmaf(sum_[i], shrink, sum[i]);
        float* row = out_ + i * padded_;
        store_rows<float>({row, padded_, padded_}, 0, 1, row, shrink);
    }
}

template class QueryBlock<float>;
template class QueryBlock<BFloat16>;

}  // namespace plinth::kernels::cpu
