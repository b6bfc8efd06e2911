// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>

#include "kernels/attention_part.h"

namespace plinth::kernels {

/// The extents of one call of attention, checked; the same on every device.
struct AttentionShape {
    int64_t batch, tokens, heads, kv_heads, width;
    float scale;

    /// From y [B, T, H*K] and the attributes.
    static AttentionShape of_heads(ConstView y, const Attention& options) {
        CHECK(y.shape.rank() == 3 && options.heads > 0 && options.kv_heads > 0 &&
                  options.heads % options.kv_heads == 0 && y.dim(2) % options.heads == 0 &&
                  y.is_contiguous(),
              "attention: {} heads and {} key/value heads do not fit y {}", options.heads,
              options.kv_heads, y.shape.text());
        return of_width(y, y.dim(2) / options.heads, options);
    }

    /// The same for packed qkv; refuses what does not fit.
    static AttentionShape of_packed(ConstView qkv, ConstView y, ConstView log_sum,
                                    const AttentionMask& mask, const Attention& options) {
        const AttentionShape shape = of_heads(y, options);
        const Shape packed{shape.batch, shape.tokens, shape.columns()};
        CHECK(qkv.shape == packed && qkv.is_contiguous() && qkv.dtype == y.dtype &&
                  log_sum.elements() == shape.batch * shape.heads * shape.tokens,
              "attention: qkv {}, y {} and log_sum {} do not fit {} heads and {} key/value heads",
              qkv.shape.text(), y.shape.text(), log_sum.shape.text(), shape.heads, shape.kv_heads);
        shape.check_mask(mask, shape.tokens, options);
        return shape;
    }

    /// Of a part, whose queries are the tokens here; refuses what does not fit.
    static AttentionShape of_part(ConstView log_sum, ConstView q, ConstView k, ConstView v,
                                  const AttentionMask& mask, const AttentionPart& part,
                                  const Attention& options) {
        CHECK(q.shape.rank() == 3 && options.heads > 0 && options.kv_heads > 0 &&
                  options.heads % options.kv_heads == 0 && q.dim(2) % options.heads == 0,
              "attention_part: {} heads and {} key/value heads do not fit q {}", options.heads,
              options.kv_heads, q.shape.text());
        const AttentionShape shape = of_width(q, q.dim(2) / options.heads, options);
        CHECK(k.shape.rank() == 3 && k.dim(0) == shape.batch &&
                  k.dim(2) == shape.kv_heads * shape.width && k.shape == v.shape &&
                  k.dtype == q.dtype && v.dtype == q.dtype &&
                  (log_sum.shape == Shape{shape.batch, shape.heads, shape.tokens}),
              "attention_part: k {}, v {} and log_sum {} do not fit q {} of {} heads",
              k.shape.text(), v.shape.text(), log_sum.shape.text(), q.shape.text(), shape.heads);
        CHECK(part.first_query >= 0 && part.first_query + shape.tokens <= part.tokens &&
                  part.first_key >= 0 && part.first_key + k.dim(1) <= part.tokens &&
                  (options.dropout == 0.0f || part.first_key % 4 == 0),
              "attention_part: {} queries from {} and {} keys from {} of {} tokens", shape.tokens,
              part.first_query, k.dim(1), part.first_key, part.tokens);
        shape.check_mask(mask, part.tokens, options);
        return shape;
    }

    /// Of a token's row in packed qkv.
    int64_t columns() const { return (heads + 2 * kv_heads) * width; }
    int64_t group() const { return heads / kv_heads; }

  private:
    static AttentionShape of_width(ConstView rows, int64_t width, const Attention& options) {
        const float scale =
            options.scale != 0.0f ? options.scale : 1.0f / std::sqrt(static_cast<float>(width));
        return {rows.dim(0), rows.dim(1), options.heads, options.kv_heads, width, scale};
    }
    /// `positions`: tokens of the sequence.
    void check_mask(const AttentionMask& mask, int64_t positions, const Attention& options) const {
        CHECK((!mask.slopes || mask.slopes.elements() == heads) &&
                  (!mask.documents || mask.documents.elements() == batch * positions) &&
                  (mask.samples ? mask.samples.elements() == batch : options.dropout == 0.0f),
              "attention: slopes {}, documents {} and samples {} do not fit {} samples of {} "
              "tokens and {} heads",
              mask.slopes.shape.text(), mask.documents.shape.text(), mask.samples.shape.text(),
              batch, positions, heads);
        CHECK(options.window == 0 || (options.window > 0 && options.causal),
              "attention: a window of {} keys{}", options.window,
              options.causal ? "" : " of attention that is not causal");
        CHECK(options.dropout >= 0.0f && options.dropout < 1.0f,
              "attention: dropout {} is not in [0, 1)", options.dropout);
        // The number of a weight packs head, query and a quarter of the key (16, 24 and 24 bits).
        CHECK(
            options.dropout == 0.0f || (positions <= int64_t{1} << 24 && options.first_head >= 0 &&
                                        options.first_head + heads <= int64_t{1} << 16),
            "attention: dropout numbers weights of {} tokens and heads up to {} at most, but "
            "there are {} tokens and {} heads",
            int64_t{1} << 24, int64_t{1} << 16, positions, options.first_head + heads);
    }
};

}  // namespace plinth::kernels
