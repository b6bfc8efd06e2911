// SPDX-License-Identifier: Apache-2.0
#include "kernels/attention.h"

#include <cmath>

#include "kernels/cpu/elementwise.h"
#include "kernels/cpu/query_block.h"

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

template <typename T>
void forward_of(View y, View log_sum, ConstView qkv, const AttentionMask& mask,
                const AttentionShape& shape, const Attention& options, Stream& stream) {
    const auto heads = TokenHeads<const T>::of(qkv, shape.width);
    const auto y_heads = TokenHeads<T>::of(y, shape.width);
    const int64_t blocks = (shape.tokens + block_queries - 1) / block_queries;
    stream.pool().run(shape.batch * shape.heads * blocks, [&](int64_t index) {
        const int64_t b = index / blocks / shape.heads, h = index / blocks % shape.heads;
        const int64_t query = index % blocks * block_queries;
        const int64_t k_head = shape.heads + h / shape.group();
        const Block block{query, std::min(block_queries, shape.tokens - query), 0, 0};
        QueryBlock<T> queries(heads.rows(b, h), query, block, shape.scale);
        queries.meet_all(heads.rows(b, k_head), heads.rows(b, k_head + shape.kv_heads), 0,
                         shape.tokens, HeadMask::of(mask, options, shape.tokens, b, h));
        queries.finish(y_heads.rows(b, h), query,
                       log_sum.as<float>() + (b * shape.heads + h) * shape.tokens + query);
    });
}

template <typename T>
void cached_of(View y, ConstView q, ConstView k, ConstView v, ConstView starts, ConstView slopes,
               const AttentionShape& shape, const Attention& options, Stream& stream) {
    const auto y_heads = TokenHeads<T>::of(y, shape.width);
    const auto q_heads = TokenHeads<const T>::of(q, shape.width);
    const auto k_heads = TokenHeads<const T>::of(k, shape.width);
    const auto v_heads = TokenHeads<const T>::of(v, shape.width);
    const int64_t blocks = (shape.tokens + block_queries - 1) / block_queries;
    const int64_t capacity = k.dim(1);
    stream.pool().run(shape.batch * shape.heads * blocks, [&](int64_t index) {
        const int64_t b = index / blocks / shape.heads, h = index / blocks % shape.heads;
        const int64_t first = index % blocks * block_queries, start = starts.as<int32_t>()[b];
        CHECK(start >= 0 && start + shape.tokens <= capacity,
              "attention_cached: sample {} has {} tokens and {} new ones in a cache of {}", b,
              start, shape.tokens, capacity);
        const Block block{start + first, std::min(block_queries, shape.tokens - first), 0, 0};
        QueryBlock<T> queries(q_heads.rows(b, h), first, block, shape.scale);
        queries.meet_all(k_heads.rows(b, h / shape.group()), v_heads.rows(b, h / shape.group()), 0,
                         start + shape.tokens, HeadMask::of({.slopes = slopes}, options, 0, 0, h));
        queries.finish(y_heads.rows(b, h), first, nullptr);
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
