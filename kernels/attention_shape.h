// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>

#include "kernels/attention.h"

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
        const int64_t width = y.dim(2) / options.heads;
        const float scale =
            options.scale != 0.0f ? options.scale : 1.0f / std::sqrt(static_cast<float>(width));
        return {y.dim(0), y.dim(1), options.heads, options.kv_heads, width, scale};
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
        CHECK((!mask.slopes || mask.slopes.elements() == shape.heads) &&
                  (!mask.documents || mask.documents.elements() == shape.batch * shape.tokens) &&
                  (mask.samples ? mask.samples.elements() == shape.batch : options.dropout == 0.0f),
              "attention: slopes {}, documents {} and samples {} do not fit y {} of {} heads",
              mask.slopes.shape.text(), mask.documents.shape.text(), mask.samples.shape.text(),
              y.shape.text(), shape.heads);
        CHECK(options.dropout >= 0.0f && options.dropout < 1.0f,
              "attention: dropout {} is not in [0, 1)", options.dropout);
        return shape;
    }

    /// Of a token's row in packed qkv.
    int64_t columns() const { return (heads + 2 * kv_heads) * width; }
    int64_t group() const { return heads / kv_heads; }
};

}  // namespace plinth::kernels
