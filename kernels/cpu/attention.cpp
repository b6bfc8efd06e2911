// SPDX-License-Identifier: Apache-2.0
#include "kernels/attention.h"

#include <cmath>

#include "kernels/cpu/attention_blocks.h"
#include "kernels/cpu/elementwise.h"
#include "kernels/math.h"

namespace plinth::kernels {

std::vector<float> alibi_slopes(int64_t heads) {
    int64_t power = 1;
    while (2 * power <= heads)
        power *= 2;
    std::vector<float> slopes;
    for (int64_t j = 1; j <= power; ++j)
        slopes.push_back(static_cast<float>(
            std::exp2(-8.0 * static_cast<double>(j) / static_cast<double>(power))));
    for (int64_t j = 1; j <= heads - power; ++j)
        slopes.push_back(static_cast<float>(
            std::exp2(-4.0 * static_cast<double>(2 * j - 1) / static_cast<double>(power))));
    return slopes;
}

namespace cpu {

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

/// Queries [query, query + queries) of one (sample, head): their running maxima and sums, and the
/// output before division.
template <typename T>
class QueryBlock {
  public:
    QueryBlock(HeadRows<const T> q, int64_t first_row, Block block, float scale)
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

    /// Meets the keys and values in rows [first, first + count), which stand at those positions.
    void meet(HeadRows<const T> k, HeadRows<const T> v, int64_t first, int64_t count,
              const HeadMask& mask) {
        block_.key = first;
        block_.keys = count;
        if (!mask.touches(block_)) return;
        copy_rows(keys_, k, first, count, 1.0f);
        copy_rows(values_, v, first, count, 1.0f);
        block_scores(scores_, keys_, queries_, width_, block_, mask);
        mask_scores(scores_, block_, mask);
        take_exponentials(mask.diagonal(block_));
        if (mask.dropout > 0.0f) drop_weights(scores_, block_, mask);
        sum_over_keys(out_, scores_, values_, padded_, block_, mask);
    }

    void finish(HeadRows<T> y, int64_t first_row, float* log_sum) {
        for (int64_t i = 0; i < block_.queries; ++i) {
            const float inverse = sum_[i] > 0.0f ? 1.0f / sum_[i] : 0.0f;
            store_rows(y, first_row + i, 1, out_ + i * padded_, inverse);
            if (log_sum) log_sum[i] = largest_[i] + std::log(sum_[i]);
        }
    }

  private:
    void take_exponentials(int64_t diagonal) {
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

template <typename T>
void meet_all_keys(QueryBlock<T>& queries, const Block& block, HeadRows<const T> k,
                   HeadRows<const T> v, int64_t keys, const HeadMask& mask) {
    const int64_t limit = mask.key_limit(block, keys);
    for (int64_t key = 0; key < limit; key += block_keys)
        queries.meet(k, v, key, std::min(block_keys, limit - key), mask);
}

template <typename T>
void forward_of(View y, View log_sum, ConstView qkv, const AttentionMask& mask,
                const AttentionShape& shape, const Attention& options, Stream& stream) {
    const int64_t blocks = (shape.tokens + block_queries - 1) / block_queries;
    stream.pool().run(shape.batch * shape.heads * blocks, [&](int64_t index) {
        const int64_t b = index / blocks / shape.heads, h = index / blocks % shape.heads;
        const int64_t query = index % blocks * block_queries;
        const Block block{query, std::min(block_queries, shape.tokens - query), 0, 0};
        const auto heads = packed_heads(qkv.as<T>(), shape, b, h);
        QueryBlock<T> queries(heads.q, query, block, shape.scale);
        meet_all_keys<T>(queries, block, heads.k, heads.v, shape.tokens,
                         HeadMask::of(mask, options, shape.tokens, b, h));
        const int64_t width = shape.heads * shape.width;
        queries.finish({y.as<T>() + b * shape.tokens * width + h * shape.width, width, shape.width},
                       query, log_sum.as<float>() + (b * shape.heads + h) * shape.tokens + query);
    });
}

template <typename T>
void cached_of(View y, ConstView q, ConstView k, ConstView v, ConstView starts, ConstView slopes,
               const AttentionShape& shape, const Attention& options, Stream& stream) {
    const int64_t blocks = (shape.tokens + block_queries - 1) / block_queries;
    const int64_t capacity = k.dim(1), group = shape.heads / shape.kv_heads;
    stream.pool().run(shape.batch * shape.heads * blocks, [&](int64_t index) {
        const int64_t b = index / blocks / shape.heads, h = index / blocks % shape.heads;
        const int64_t first = index % blocks * block_queries, start = starts.as<int32_t>()[b];
        CHECK(start >= 0 && start + shape.tokens <= capacity,
              "attention_cached: sample {} has {} tokens and {} new ones in a cache of {}", b,
              start, shape.tokens, capacity);
        const Block block{start + first, std::min(block_queries, shape.tokens - first), 0, 0};
        const auto cache = [&](ConstView rows) {
            return HeadRows<const T>{rows.as<T>() + b * rows.stride(0) + h / group * shape.width,
                                     rows.stride(1), shape.width};
        };
        QueryBlock<T> queries(
            {q.as<T>() + b * q.stride(0) + h * shape.width, q.stride(1), shape.width}, first, block,
            shape.scale);
        meet_all_keys<T>(queries, block, cache(k), cache(v), start + shape.tokens,
                         HeadMask::of({.slopes = slopes}, options, 0, 0, h));
        const int64_t width = shape.heads * shape.width;
        queries.finish({y.as<T>() + b * shape.tokens * width + h * shape.width, width, shape.width},
                       first, nullptr);
    });
}

}  // namespace

void attention_forward(View y, View log_sum, ConstView qkv, AttentionMask mask, Attention options,
                       Stream& stream) {
    const AttentionShape shape = AttentionShape::of_packed(qkv, y, log_sum, mask, options);
    with_float_type(qkv.dtype, "attention_forward", [&]<typename T>(T) {
        forward_of<T>(y, log_sum, qkv, mask, shape, options, stream);
    });
}

void attention_cached(View y, ConstView q, ConstView k, ConstView v, ConstView starts,
                      ConstView slopes, Attention options, Stream& stream) {
    options.causal = true;
    options.dropout = 0.0f;
    AttentionShape shape = AttentionShape::of_heads(y, options);
    CHECK(q.shape.rank() == 3 && k.shape.rank() == 3 && k.shape == v.shape &&
              q.dim(0) == shape.batch && q.dim(1) == shape.tokens && q.dim(2) >= y.dim(2) &&
              k.dim(0) == shape.batch && k.dim(2) == shape.kv_heads * shape.width &&
              starts.elements() == shape.batch,
          "attention_cached: q {}, k {}, v {} and starts {} do not fit y {}", q.shape.text(),
          k.shape.text(), v.shape.text(), starts.shape.text(), y.shape.text());
    with_float_type(y.dtype, "attention_cached", [&]<typename T>(T) {
        cached_of<T>(y, q, k, v, starts, slopes, shape, options, stream);
    });
}

}  // namespace cpu

}  // namespace plinth::kernels
