// SPDX-License-Identifier: Apache-2.0
// The extents of the calls of attention_part.h, checked; the same on every device.
#pragma once

#include "kernels/attention_shape.h"

namespace plinth::kernels {

inline bool are_token_rows(const ConstView& view, int64_t batch, int64_t tokens, int64_t columns,
                           DType dtype) {
    return view.shape == Shape{batch, tokens, columns} && view.dtype == dtype;
}

inline AttentionShape part_forward_shape(ConstView y, ConstView log_sum, ConstView q, ConstView k,
                                         ConstView v, const AttentionMask& mask,
                                         const AttentionPart& part, const Attention& options) {
    const AttentionShape shape = AttentionShape::of_part(log_sum, q, k, v, mask, part, options);
    CHECK(are_token_rows(y, shape.batch, shape.tokens, q.dim(2), DType::f32),
          "attention_part_forward: y {} of q {}", y.shape.text(), q.shape.text());
    return shape;
}

inline AttentionShape part_backward_shape(ConstView dq, ConstView dk, ConstView dv, ConstView dy,
                                          ConstView y, ConstView log_sum, ConstView q, ConstView k,
                                          ConstView v, const AttentionMask& mask,
                                          const AttentionPart& part, const Attention& options) {
    const AttentionShape shape = AttentionShape::of_part(log_sum, q, k, v, mask, part, options);
    const int64_t keys = k.dim(1);
    CHECK(are_token_rows(dq, shape.batch, shape.tokens, q.dim(2), DType::f32) &&
              are_token_rows(dk, shape.batch, keys, k.dim(2), DType::f32) &&
              are_token_rows(dv, shape.batch, keys, k.dim(2), DType::f32) &&
              are_token_rows(dy, shape.batch, shape.tokens, q.dim(2), q.dtype) &&
              are_token_rows(y, shape.batch, shape.tokens, q.dim(2), q.dtype),
          "attention_part_backward: dq {}, dk {}, dv {}, dy {} and y {} do not fit q {} and k {}",
          dq.shape.text(), dk.shape.text(), dv.shape.text(), dy.shape.text(), y.shape.text(),
          q.shape.text(), k.shape.text());
    return shape;
}

/// Of attention_part_join.
struct PartJoin {
    int64_t rows, columns;  ///< of dqkv: B * N and (H + 2 G) K
    int64_t width;          ///< columns of all keys, and of all values; 0 where none are added
    int64_t queries;        ///< columns to which nothing is added

    static PartJoin of(ConstView dqkv, ConstView own, ConstView others) {
        const int64_t width = others ? others.dim(3) : 0, queries = own.dim(2) - 2 * width;
        CHECK(
            dqkv.shape == own.shape && dqkv.is_contiguous() && own.is_contiguous() &&
                own.dtype == DType::f32 &&
                (!others || (others.shape == Shape{2, own.dim(0), own.dim(1), width} &&
                             others.is_contiguous() && others.dtype == DType::f32 && queries > 0)),
            "attention_part_join: dqkv {} from {} and {}", dqkv.shape.text(), own.shape.text(),
            others.shape.text());
        return {own.dim(0) * own.dim(1), own.dim(2), width, queries};
    }
};

}  // namespace plinth::kernels
