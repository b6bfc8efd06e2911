// SPDX-License-Identifier: Apache-2.0
// With P the weights, D = rowsum(dy * y) and S the scaled scores:
// dV = P^T dY, dS = P * (dY V^T - D), dQ = scale dS K, dK = dS^T (scale Q).
#include "kernels/attention.h"
#include "kernels/cpu/attention_blocks.h"
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

    template <typename T>
    void load(HeadRows<const T> q, HeadRows<const T> dy, HeadRows<const T> y, const float* log_sum,
              const Block& block, float scale) {
        const int64_t lanes = block.lanes(), rest = (lanes - block.queries) * padded_;
        copy_rows(out_, y, block.query, block.queries, 1.0f);  // out_ is free until below
        copy_rows(queries_, q, block.query, block.queries, scale);
        copy_rows(gradients_, dy, block.query, block.queries, 1.0f);
        std::fill_n(queries_ + block.queries * padded_, rest, 0.0f);
        std::fill_n(gradients_ + block.queries * padded_, rest, 0.0f);
        // Lanes without a query, and queries that see no key, get weights of 0.
        std::fill_n(log_sums_, lanes, std::numeric_limits<float>::infinity());
        std::fill_n(dots_, lanes, 0.0f);
        for (int64_t i = 0; i < block.queries; ++i) {
            dots_[i] = dot(gradients_ + i * padded_, out_ + i * padded_, padded_);
            if (log_sum[i] > -std::numeric_limits<float>::infinity()) log_sums_[i] = log_sum[i];
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

    template <typename T>
    void store(HeadRows<T> dq, const Block& block, float scale) const {
        store_rows(dq, block.query, block.queries, out_, scale);
    }

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

/// The arguments of one backward pass.
template <typename T>
struct Backward {
    View dqkv;
    ConstView dy, y, log_sum, qkv;
    const AttentionMask& mask;
    const AttentionShape& shape;
    const Attention& options;

    int64_t padded() const { return padded_to_lanes(shape.width); }
    int64_t group() const { return shape.heads / shape.kv_heads; }
    int64_t query_blocks() const { return (shape.tokens + block_queries - 1) / block_queries; }
    /// Chunks of work for one key/value head: blocks of queries are dealt to them in turn, and
    /// their sums for dk and dv are added in order. A function of the shape alone.
    int64_t pieces() const {
        const int64_t heads = shape.batch * shape.kv_heads;
        return std::clamp<int64_t>((wanted_chunks + heads - 1) / heads, 1,
                                   group() * query_blocks());
    }

    /// Every pieces()-th block of queries of key/value head g: dq is done, dk and dv [T][padded]
    /// get its part.
    void run_piece(int64_t b, int64_t g, int64_t piece, float* dk, float* dv) const {
        const Scratch rows(2 * shape.tokens * padded());
        float* k = rows.get();
        float* v = rows + shape.tokens * padded();
        const auto packed = packed_heads(qkv.as<T>(), shape, b, g * group());
        copy_rows(k, packed.k, 0, shape.tokens, 1.0f);
        copy_rows(v, packed.v, 0, shape.tokens, 1.0f);
        std::fill_n(dk, shape.tokens * padded(), 0.0f);
        std::fill_n(dv, shape.tokens * padded(), 0.0f);
        QueryGradients queries(shape.width);
        for (int64_t item = piece; item < group() * query_blocks(); item += pieces())
            run_queries(queries, b, g * group() + item / query_blocks(),
                        item % query_blocks() * block_queries, k, v, dk, dv);
    }

    void run_queries(QueryGradients& queries, int64_t b, int64_t h, int64_t query, const float* k,
                     const float* v, float* dk, float* dv) const {
        const int64_t width = shape.heads * shape.width;
        const int64_t offset = b * shape.tokens * width + h * shape.width;
        const HeadMask head = HeadMask::of(mask, options, shape.tokens, b, h);
        Block block{query, std::min(block_queries, shape.tokens - query), 0, 0};
        queries.load<T>(
            packed_heads(qkv.as<T>(), shape, b, h).q, {dy.as<T>() + offset, width, shape.width},
            {y.as<T>() + offset, width, shape.width},
            log_sum.as<float>() + (b * shape.heads + h) * shape.tokens + query, block, shape.scale);
        const int64_t limit = head.key_limit(block, shape.tokens);
        for (block.key = 0; block.key < limit; block.key += block_keys) {
            block.keys = std::min(block_keys, limit - block.key);
            const int64_t at = block.key * padded();
            if (head.touches(block)) queries.meet(dk + at, dv + at, k + at, v + at, block, head);
        }
        queries.store(packed_heads(dqkv.as<T>(), shape, b, h).q, block, shape.scale);
    }

    void store_key_gradients(int64_t b, int64_t g, const float* dk, const float* dv) const {
        const auto heads = packed_heads(dqkv.as<T>(), shape, b, g * group());
        store_rows(heads.k, 0, shape.tokens, dk, 1.0f);
        store_rows(heads.v, 0, shape.tokens, dv, 1.0f);
    }

    void run(Stream& stream) const {
        const int64_t heads = shape.batch * shape.kv_heads, size = shape.tokens * padded();
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
};

}  // namespace

void attention_backward(View dqkv, ConstView dy, ConstView y, ConstView log_sum, ConstView qkv,
                        AttentionMask mask, Attention options, Stream& stream) {
    const AttentionShape shape = AttentionShape::of_packed(qkv, y, log_sum, mask, options);
    CHECK(dqkv.shape == qkv.shape && dy.shape == y.shape && dqkv.dtype == qkv.dtype &&
              dy.dtype == qkv.dtype && dqkv.is_contiguous() && dy.is_contiguous(),
          "attention_backward: dqkv {} from dy {}", dqkv.shape.text(), dy.shape.text());
    with_float_type(qkv.dtype, "attention_backward", [&]<typename T>(T) {
        Backward<T>{dqkv, dy, y, log_sum, qkv, mask, shape, options}.run(stream);
    });
}

}  // namespace plinth::kernels::cpu
