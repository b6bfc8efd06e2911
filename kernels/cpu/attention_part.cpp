// SPDX-License-Identifier: Apache-2.0
#include "kernels/attention_part.h"

#include "kernels/cpu/attention_gradients.h"
#include "kernels/cpu/elementwise.h"
#include "kernels/cpu/query_block.h"

namespace plinth::kernels::cpu {

namespace {

bool are_rows(ConstView view, int64_t batch, int64_t tokens, int64_t columns, DType dtype) {
    return view.shape == Shape{batch, tokens, columns} && view.dtype == dtype;
}

template <typename T>
void forward_of(View y, View log_sum, ConstView q, ConstView k, ConstView v,
                const AttentionMask& mask, const AttentionPart& part, const AttentionShape& shape,
                const Attention& options, Stream& stream) {
    const auto y_heads = TokenHeads<float>::of(y, shape.width);
    const auto q_heads = TokenHeads<const T>::of(q, shape.width);
    const auto k_heads = TokenHeads<const T>::of(k, shape.width);
    const auto v_heads = TokenHeads<const T>::of(v, shape.width);
    const int64_t blocks = (shape.tokens + block_queries - 1) / block_queries;
    stream.pool().run(shape.batch * shape.heads * blocks, [&](int64_t index) {
        const int64_t b = index / blocks / shape.heads, h = index / blocks % shape.heads;
        const int64_t first = index % blocks * block_queries, g = h / shape.group();
        const Block block{part.first_query + first, std::min(block_queries, shape.tokens - first),
                          0, 0};
        const HeadRows<float> y_rows = y_heads.rows(b, h);
        float* log_sums =
            log_sum.as<float>() + b * log_sum.stride(0) + h * log_sum.stride(1) + first;
        QueryBlock<T> queries(q_heads.rows(b, h), first, block, shape.scale);
        if (!part.begins)
            queries.resume({y_rows.data, y_rows.stride, y_rows.width}, first, log_sums);
        queries.meet_all(k_heads.rows(b, g), v_heads.rows(b, g), part.first_key,
                         part.first_key + k.dim(1), HeadMask::of(mask, options, part.tokens, b, h));
        queries.finish(y_rows, first, log_sums);
    });
}

}  // namespace

void attention_part_forward(View y, View log_sum, ConstView q, ConstView k, ConstView v,
                            AttentionMask mask, AttentionPart part, Attention options,
                            Stream& stream) {
    const AttentionShape shape = AttentionShape::of_part(log_sum, q, k, v, mask, part, options);
    CHECK(are_rows(y, shape.batch, shape.tokens, q.dim(2), DType::f32),
          "attention_part_forward: y {} of q {}", y.shape.text(), q.shape.text());
    with_float_type(q.dtype, "attention_part_forward", [&]<typename T>(T) {
        forward_of<T>(y, log_sum, q, k, v, mask, part, shape, options, stream);
    });
}

void attention_part_backward(View dq, View dk, View dv, ConstView dy, ConstView y,
                             ConstView log_sum, ConstView q, ConstView k, ConstView v,
                             AttentionMask mask, AttentionPart part, Attention options,
                             Stream& stream) {
    const AttentionShape shape = AttentionShape::of_part(log_sum, q, k, v, mask, part, options);
    const int64_t keys = k.dim(1);
    CHECK(are_rows(dq, shape.batch, shape.tokens, q.dim(2), DType::f32) &&
              are_rows(dk, shape.batch, keys, k.dim(2), DType::f32) &&
              are_rows(dv, shape.batch, keys, k.dim(2), DType::f32) &&
              are_rows(dy, shape.batch, shape.tokens, q.dim(2), q.dtype) &&
              are_rows(y, shape.batch, shape.tokens, q.dim(2), q.dtype),
          "attention_part_backward: dq {}, dk {}, dv {}, dy {} and y {} do not fit q {} and k {}",
          dq.shape.text(), dk.shape.text(), dv.shape.text(), dy.shape.text(), y.shape.text(),
          q.shape.text(), k.shape.text());
    const int64_t width = shape.width;
    with_float_type(q.dtype, "attention_part_backward", [&]<typename T>(T) {
        AttentionGradients<T, true>{.dq = TokenHeads<float>::of(dq, width),
                                    .dk = TokenHeads<float>::of(dk, width),
                                    .dv = TokenHeads<float>::of(dv, width),
                                    .dy = TokenHeads<const T>::of(dy, width),
                                    .y = TokenHeads<const T>::of(y, width),
                                    .log_sum = log_sum,
                                    .q = TokenHeads<const T>::of(q, width),
                                    .k = TokenHeads<const T>::of(k, width),
                                    .v = TokenHeads<const T>::of(v, width),
                                    .shape = shape,
                                    .keys = keys,
                                    .part = part,
                                    .mask = mask,
                                    .options = options}
            .run(stream);
    });
}

void attention_part_join(View dqkv, ConstView own, ConstView others, Stream& stream) {
    const int64_t rows = own.dim(0) * own.dim(1), columns = own.dim(2);
    const int64_t width = others ? others.dim(3) : 0, queries = columns - 2 * width;
    CHECK(dqkv.shape == own.shape && dqkv.is_contiguous() && own.is_contiguous() &&
              own.dtype == DType::f32 &&
              (!others || (others.shape == Shape{2, own.dim(0), own.dim(1), width} &&
                           others.is_contiguous() && others.dtype == DType::f32 && queries > 0)),
          "attention_part_join: dqkv {} from {} and {}", dqkv.shape.text(), own.shape.text(),
          others.shape.text());
    with_float_type(dqkv.dtype, "attention_part_join", [&]<typename T>(T) {
        parallel_for(stream, rows, row_grain(columns), [&](int64_t begin, int64_t end) {
            for (int64_t row = begin; row < end; ++row) {
                const float* from = own.as<float>() + row * columns;
                T* to = dqkv.as<T>() + row * columns;
                for (int64_t i = 0; i < queries; ++i)
                    to[i] = T(from[i]);
                for (int64_t part = 0; part < 2 && others; ++part) {
                    const float* more = others.as<float>() + (part * rows + row) * width;
                    const int64_t first = queries + part * width;
                    for (int64_t i = 0; i < width; ++i)
                        to[first + i] = T(from[first + i] + more[i]);
                }
            }
        });
    });
}

}  // namespace plinth::kernels::cpu
