// SPDX-License-Identifier: Apache-2.0
#include "kernels/attention_part.h"

#include "kernels/attention_part_shape.h"
#include "kernels/cpu/attention_gradients.h"
#include "kernels/cpu/elementwise.h"
#include "kernels/cpu/query_block.h"

namespace plinth::kernels::cpu {

namespace {

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
    const AttentionShape shape = part_forward_shape(y, log_sum, q, k, v, mask, part, options);
    with_float_type(q.dtype, "attention_part_forward", [&]<typename T>(T) {
        forward_of<T>(y, log_sum, q, k, v, mask, part, shape, options, stream);
    });
}

void attention_part_backward(View dq, View dk, View dv, ConstView dy, ConstView y,
                             ConstView log_sum, ConstView q, ConstView k, ConstView v,
                             AttentionMask mask, AttentionPart part, Attention options,
                             Stream& stream) {
    const AttentionShape shape =
        part_backward_shape(dq, dk, dv, dy, y, log_sum, q, k, v, mask, part, options);
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
                                    .keys = k.dim(1),
                                    .part = part,
                                    .mask = mask,
                                    .options = options}
            .run(stream);
    });
}

void attention_part_join(View dqkv, ConstView own, ConstView others, Stream& stream) {
    const PartJoin join = PartJoin::of(dqkv, own, others);
    with_float_type(dqkv.dtype, "attention_part_join", [&]<typename T>(T) {
        parallel_for(stream, join.rows, row_grain(join.columns), [&](int64_t begin, int64_t end) {
            for (int64_t row = begin; row < end; ++row) {
                const float* from = own.as<float>() + row * join.columns;
                T* to = dqkv.as<T>() + row * join.columns;
                for (int64_t i = 0; i < join.queries; ++i)
                    to[i] = T(from[i]);
                for (int64_t part = 0; part < 2 && others; ++part) {
                    const float* more = others.as<float>() + (part * join.rows + row) * join.width;
                    const int64_t first = join.queries + part * join.width;
                    for (int64_t i = 0; i < join.width; ++i)
                        to[first + i] = T(from[first + i] + more[i]);
                }
            }
        });
    });
}

}  // namespace plinth::kernels::cpu
