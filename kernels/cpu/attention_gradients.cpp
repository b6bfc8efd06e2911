// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/attention_gradients.h"

#include "kernels/cpu/elementwise.h"
#include "kernels/math.h"

namespace plinth::kernels::cpu {

namespace {

/// Enough chunks for this many threads.
constexpr int64_t wanted_chunks = 16;

PLINTH_SIMD float dot(const float* a, const float* b, int64_t n) {
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; ++i)
        sum += a[i] * b[i];
    return sum;
}

PLINTH_SIMD void weights_of(float* scores, const float* log_sum, int64_t lanes, int64_t keys,
                            int64_t diagonal) {
    for (int64_t row = 0; row < keys; ++row) {
        float* score = scores + row * lanes;
        for (int64_t lane = first_lane_of(diagonal, row); lane < lanes; ++lane)
            score[lane] = exp_of(score[lane] - log_sum[lane]);
    }
}

/// dweights = weights * (dweights - dot): the gradient of the scaled scores.
PLINTH_SIMD void score_gradients(float* dweights, const float* weights, const float* dots,
                                 int64_t lanes, int64_t keys, int64_t diagonal) {
    for (int64_t row = 0; row < keys; ++row) {
        float* gradient = dweights + row * lanes;
        const float* weight = weights + row * lanes;
        for (int64_t lane = first_lane_of(diagonal, row); lane < lanes; ++lane)
            gradient[lane] = weight[lane] * (gradient[lane] - dots[lane]);
    }
}

PLINTH_SIMD void add_to(float* sum, const float* part, int64_t n) {
    for (int64_t i = 0; i < n; ++i)
        sum[i] += part[i];
}

/// One block of queries with what its gradient needs, as rows and transposed.
class QueryGradients {
  public:
    QueryGradients(int64_t width)
        : width_(width),
          padded_(padded_to_lanes(width)),
          scratch_(block_queries * (5 * padded_ + 3 * block_keys)) {}

    /// Rows [first, first + block.queries) of q, dy, y and log_sum.
    template <typename T>
    void load(HeadRows<const T> q, HeadRows<const T> dy, HeadRows<const T> y, const float* log_sum,
              int64_t first, const Block& block, float scale) {
        const int64_t lanes = block.lanes(), rest = (lanes - block.queries) * padded_;
        copy_rows(out_, y, first, block.queries, 1.0f);  // out_ is free until below
        copy_rows(queries_, q, first, block.queries, scale);
        copy_rows(gradients_, dy, first, block.queries, 1.0f);
        std::fill_n(queries_ + block.queries * padded_, rest, 0.0f);
        std::fill_n(gradients_ + block.queries * padded_, rest, 0.0f);
        // Lanes without a query, and queries that see no key, get weights of 0.
        std::fill_n(log_sums_, lanes, std::numeric_limits<float>::infinity());
        std::fill_n(dots_, lanes, 0.0f);
        for (int64_t i = 0; i < block.queries; ++i) {
            dots_[i] = dot(gradients_ + i * padded_, out_ + i * padded_, padded_);
            if (log_sum[first + i] > -std::numeric_limits<float>::infinity())
                log_sums_[i] = log_sum[first + i];
        }
        transpose_rows(queries_transposed_, queries_, width_, lanes);
        transpose_rows(gradients_transposed_, gradients_, width_, lanes);
        std::fill_n(out_, lanes * padded_, 0.0f);
    }

    /// Adds this block's part to dk and dv, [keys][padded], and to the queries' own gradient.
    void meet(float* dk, float* dv, const float* k, const float* v, const Block& block,
              const HeadMask& mask) {
        const int64_t lanes = block.lanes(), diagonal = mask.diagonal(block);
        block_scores(weights_, k, queries_transposed_, width_, block, mask);
        mask_scores(weights_, block, mask);
        weights_of(weights_, log_sums_, lanes, block.keys, diagonal);
        block_scores(dweights_, v, gradients_transposed_, width_, block, mask);
        const float* used = weights_;
        if (mask.dropout > 0.0f) {
            std::copy_n(weights_, block.keys * lanes, dropped_);
            drop_weights(dropped_, block, mask);
            drop_weights(dweights_, block, mask);
            used = dropped_;
        }
        sum_over_queries(dv, used, gradients_, padded_, block, mask);
        score_gradients(dweights_, weights_, dots_, lanes, block.keys, diagonal);
        sum_over_queries(dk, dweights_, queries_, padded_, block, mask);
        sum_over_keys(out_, dweights_, k, padded_, block, mask);
    }

    /// [queries][padded]; times the scale it is the queries' gradient.
    const float* gradients() const { return out_; }

  private:
    int64_t width_, padded_;
    Scratch scratch_;
    float* queries_ = scratch_.get();                                   ///< [queries][K], scaled
    float* gradients_ = queries_ + block_queries * padded_;             ///< dy [queries][K]
    float* queries_transposed_ = gradients_ + block_queries * padded_;  ///< [K][lanes]
    float* gradients_transposed_ = queries_transposed_ + block_queries * padded_;
    float* out_ = gradients_transposed_ + block_queries * padded_;  ///< dq / scale
    float* weights_ = out_ + block_queries * padded_;               ///< [keys][lanes]
    float* dweights_ = weights_ + block_queries * block_keys;
    float* dropped_ = dweights_ + block_queries * block_keys;
    float log_sums_[block_queries], dots_[block_queries];
};

/// rows [first, first + count) += scale * from[i][0..width).
PLINTH_SIMD void add_scaled(float* to, const float* from, int64_t n, float scale) {
    for (int64_t i = 0; i < n; ++i)
        to[i] += scale * from[i];
}

template <bool adds, typename D>
void give_rows(HeadRows<D> rows, int64_t first, int64_t count, const float* from, float scale) {
    if constexpr (adds) {
        const int64_t padded = padded_to_lanes(rows.width);
        for (int64_t i = 0; i < count; ++i)
            add_scaled(rows.row(first + i), from + i * padded, rows.width, scale);
    } else {
        store_rows(rows, first, count, from, scale);
    }
}

}  // namespace

/// Chunks of work for one key/value head: blocks of queries are dealt to them in turn, and their
/// sums for dk and dv are added in order. A function of the shape alone.
template <typename T, bool adds>
int64_t AttentionGradients<T, adds>::pieces() const {
    const int64_t heads = shape.batch * shape.kv_heads;
    return std::clamp<int64_t>((wanted_chunks + heads - 1) / heads, 1,
                               shape.group() * query_blocks());
}

/// Every pieces()-th block of queries of key/value head g: dq is done, dk_sum and dv_sum
/// [keys][padded] get its part.
template <typename T, bool adds>
void AttentionGradients<T, adds>::run_piece(int64_t b, int64_t g, int64_t piece, float* dk_sum,
                                            float* dv_sum) const {
    const Scratch rows(2 * keys * padded());
    float* key_rows = rows.get();
    float* value_rows = rows + keys * padded();
    copy_rows(key_rows, k.rows(b, g), 0, keys, 1.0f);
    copy_rows(value_rows, v.rows(b, g), 0, keys, 1.0f);
    std::fill_n(dk_sum, keys * padded(), 0.0f);
    std::fill_n(dv_sum, keys * padded(), 0.0f);
    QueryGradients queries(shape.width);
    for (int64_t item = piece; item < shape.group() * query_blocks(); item += pieces()) {
        const int64_t h = g * shape.group() + item / query_blocks();
        const int64_t first = item % query_blocks() * block_queries;
        const HeadMask head = HeadMask::of(mask, options, part.tokens, b, h);
        Block block{part.first_query + first, std::min(block_queries, shape.tokens - first), 0, 0};
        queries.load<T>(q.rows(b, h), dy.rows(b, h), y.rows(b, h),
                        log_sum.as<float>() + b * log_sum.stride(0) + h * log_sum.stride(1), first,
                        block, shape.scale);
        const int64_t limit = head.key_limit(block, part.first_key + keys);
        block.key = head.first_key(block, part.first_key);
        for (; block.key < limit; block.key += block_keys) {
            block.keys = std::min(block_keys, limit - block.key);
            const int64_t at = (block.key - part.first_key) * padded();
            if (head.touches(block))
                queries.meet(dk_sum + at, dv_sum + at, key_rows + at, value_rows + at, block, head);
        }
        give_rows<adds>(dq.rows(b, h), first, block.queries, queries.gradients(), shape.scale);
    }
}

template <typename T, bool adds>
void AttentionGradients<T, adds>::store_key_gradients(int64_t b, int64_t g, const float* dk_sum,
                                                      const float* dv_sum) const {
    give_rows<adds>(dk.rows(b, g), 0, keys, dk_sum, 1.0f);
    give_rows<adds>(dv.rows(b, g), 0, keys, dv_sum, 1.0f);
}

template <typename T, bool adds>
void AttentionGradients<T, adds>::run(Stream& stream) const {
    const int64_t heads = shape.batch * shape.kv_heads, size = keys * padded();
    if (pieces() == 1) {
        stream.pool().run(heads, [&](int64_t head) {
            const Scratch sums(2 * size);
            const int64_t b = head / shape.kv_heads, g = head % shape.kv_heads;
            run_piece(b, g, 0, sums.get(), sums + size);
            store_key_gradients(b, g, sums.get(), sums + size);
        });
        return;
    }
    const Scratch sums(heads * pieces() * 2 * size);
    stream.pool().run(heads * pieces(), [&](int64_t index) {
        const int64_t head = index / pieces();
        run_piece(head / shape.kv_heads, head % shape.kv_heads, index % pieces(),
                  sums + index * 2 * size, sums + (index * 2 + 1) * size);
    });
    stream.pool().run(heads, [&](int64_t head) {
        float* sum = sums + head * pieces() * 2 * size;
        for (int64_t piece = 1; piece < pieces(); ++piece)
            add_to(sum, sum + piece * 2 * size, 2 * size);
        store_key_gradients(head / shape.kv_heads, head % shape.kv_heads, sum, sum + size);
    });
}

template struct AttentionGradients<float, false>;
template struct AttentionGradients<BFloat16, false>;
template struct AttentionGradients<float, true>;
template struct AttentionGradients<BFloat16, true>;

}  // namespace plinth::kernels::cpu
