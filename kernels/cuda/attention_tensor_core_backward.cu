// SPDX-License-Identifier: Apache-2.0
// With P the weights, D = rowsum(dy * y) and S the scaled scores:
// dV = P^T dY, dS = P * (dY V^T - D), dQ = scale dS K, dK = scale dS^T Q.
// One kernel goes over the keys for dQ, another over the queries for dK and dV. Both compute the
// scores again, seven products in place of five, and so no sum meets another block's: no atomic
// additions, and equal bits in every repeat. The second computes the transposed scores, so that
// they are left factors as they stand in registers.
#include "kernels/cuda/attention_delta.cuh"
#include "kernels/cuda/attention_tensor_core.cuh"
#include "kernels/cuda/attention_tensor_core.h"

namespace plinth::kernels::cuda {

namespace tensor_core {

namespace {

/// D of the gradients; fp32 ones are added to.
template <typename D>
struct BackwardArguments {
    AttentionProblem problem;
    TokenHeads<const BFloat16> dy, y, q, k, v;
    QueryValues<const float> log_sum;
    QueryValues<float> delta;  ///< the D of the formulas
    TokenHeads<D> dq, dk, dv;
    RunDocuments documents;
    int query_tiles = 0, key_tiles = 0;
};

/// The warp's rows of a gradient, `factor` times the sums, by way of its own rows of `tile`.
template <int Width, typename D>
__device__ void give_rows(TokenRows<D> tokens, const Sums<1, Width>& sums, float factor, int first,
                          int limit, int width, BFloat16* tile) {
    const auto scale = [&](int, int) { return factor; };
    if constexpr (std::is_same_v<D, float>)
        store_rows<Width, 1>(tokens, sums, scale, first, limit, width, true);
    else
        store_rows<Width, 1>(tokens, sums, scale, first, limit, width, tile);
}

/// dproducts = gradients of the scaled scores, from the products of queries (rows) and keys
/// (columns) from these positions on, and the gradients of the weights.
template <int Columns, bool Drops>
__device__ void weigh_queries(Sums<1, Columns>& products, Sums<1, Columns>& dproducts,
                              const AttentionProblem& problem, int b, int h, int query, int key,
                              bool is_seen, const float (&log_sum)[2], const float (&delta)[2]) {
    const ScoreMask mask = ScoreMask::of(problem, b, h);
    DroppedWeights dropped{};
    if constexpr (Drops) dropped = DroppedWeights::of(problem, b, h);
    const MatrixElement at = sum_element(lane_index(), 0);
#pragma unroll
    for (int n = 0; n < Columns / 8; ++n) {
        std::array<uint32_t, 4> words{};
        if constexpr (Drops) words = dropped.of_queries(query, key + 8 * n);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int half = i / 2, query_here = query + at.row + 8 * half,
                      key_here = key + 8 * n + at.column + i % 2;
            const float score = is_seen ? mask.of_seen(products[0][n][i], query_here, key_here)
                                        : mask.of_any(products[0][n][i], query_here, key_here);
            const float weight = power_of_two(score - log_sum[half]);
            float dweight = dproducts[0][n][i];
            if constexpr (Drops) dweight = dropped.drops(words[i]) ? 0.0f : dweight * dropped.kept;
            dproducts[0][n][i] = weight * (dweight - delta[half]);
        }
    }
}

/// One tile of queries of one head against all their keys. While one tile of keys and values is
/// met, the next is on its way.
template <typename D, int Width, bool Drops>
__global__ void __launch_bounds__(threads, query_gradient_blocks(Width, Drops))
    query_gradients(const BackwardArguments<D> call) {
    constexpr int rows = backward_rows, passing = backward_moving_rows(Width),
                  size = rows * row_stride(Width), passing_size = passing * row_stride(Width);
    extern __shared__ __align__(16) uint4 memory[];
    BFloat16* const queries = reinterpret_cast<BFloat16*>(memory);
    BFloat16 *const dys = queries + size, *const keys = dys + size,
                    *const values = keys + 2 * passing_size;
    const AttentionProblem& problem = call.problem;
    const AttentionSpan& span = problem.span;
    // The tiles that see most keys come first.
    const int64_t index = blockIdx.x, heads = index / call.query_tiles;
    const int first = (call.query_tiles - 1 - static_cast<int>(index % call.query_tiles)) * rows;
    const int b = static_cast<int>(heads / problem.heads),
              h = static_cast<int>(heads % problem.heads), kv_head = problem.kv_head_of(h);
    const bool has_documents = problem.documents != nullptr;
    DocumentRange documents;
    if (has_documents) documents = call.documents.queries.of(b, first, rows);
    const int end = span.keys_end(first, rows);
    const auto next_tile = [&](int key) {
        return call.documents.keys.next(b, documents, key, end, passing);
    };
    const auto copy_keys = [&](int key, int place) {
        copy_tile<Width, passing>(keys + place * passing_size,
                                  call.k.rows(b, kv_head, problem.width), key, span.keys,
                                  problem.width);
        copy_tile<Width, passing>(values + place * passing_size,
                                  call.v.rows(b, kv_head, problem.width), key, span.keys,
                                  problem.width);
    };
    int key = next_tile(span.keys_begin(first, passing));
    if (key < end) {
        copy_tile<Width, rows>(queries, call.q.rows(b, h, problem.width), first, span.queries,
                               problem.width);
        copy_tile<Width, rows>(dys, call.dy.rows(b, h, problem.width), first, span.queries,
                               problem.width);
        copy_keys(key, 0);
        commit_copies();
    }
    const int warp_first = first + 16 * warp_index();
    BFloat16* const warp_queries = queries + 16 * warp_index() * row_stride(Width);
    const BFloat16* const warp_dys = dys + 16 * warp_index() * row_stride(Width);
    float log_sum[2], delta[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const int query = warp_first + sum_element(lane_index(), 2 * half).row;
        log_sum[half] = log2_of_e * usable_log_sum(call.log_sum.of(b, h), query, span.queries);
        delta[half] = query < span.queries ? call.delta.of(b, h)[query] : 0.0f;
    }
    Sums<1, Width> dq;
    set_zero<1, Width>(dq);
    for (int place = 0; key < end; place ^= 1) {
        const int next = next_tile(key + passing);
        wait_for_copies<0>();
        __syncthreads();  // this tile is there, and nobody reads the one before any more
        if (next < end) copy_keys(next, place ^ 1);
        commit_copies();
        const BFloat16* const here = keys + place * passing_size;
        Sums<1, passing> products, dproducts;
        multiply<Width, 1, passing>(
            products, [&](int, int step) { return load_left<Width>(warp_queries, step); }, here);
        multiply<Width, 1, passing>(
            dproducts, [&](int, int step) { return load_left<Width>(warp_dys, step); },
            values + place * passing_size);
        bool is_seen = span.sees_all(first, rows, key, passing);
        if (has_documents)
            is_seen =
                is_seen && documents.is_one() && call.documents.keys.of(b, key, passing).is_one();
        weigh_queries<passing, Drops>(products, dproducts, problem, b, h,
                                      span.first_query + warp_first, span.first_key + key, is_seen,
                                      log_sum, delta);
        accumulate<Width, 1, passing>(dq, dproducts, here);
        key = next;
    }
    give_rows<Width>(call.dq.rows(b, h, problem.width), dq, problem.scale, warp_first, span.queries,
                     problem.width, warp_queries);
}

/// What key_value_gradients reads of a tile of queries, beside the tile.
template <int Rows>
struct QueryNumbers {
    float log_sum[Rows];  ///< to base 2
    float delta[Rows];
};

/// products = the weights that stay, without their factor, dproducts = gradients of the scaled
/// scores; keys are rows, queries columns.
template <int Columns, bool Drops>
__device__ void weigh_keys(Sums<1, Columns>& products, Sums<1, Columns>& dproducts,
                           const AttentionProblem& problem, int b, int h, int key, int query,
                           bool is_seen, const QueryNumbers<Columns>& numbers) {
    const ScoreMask mask = ScoreMask::of(problem, b, h);
    DroppedWeights dropped{};
    if constexpr (Drops) dropped = DroppedWeights::of(problem, b, h);
    const MatrixElement at = sum_element(lane_index(), 0);
#pragma unroll
    for (int n = 0; n < Columns / 8; ++n) {
        std::array<uint32_t, 4> words{};
        if constexpr (Drops) words = dropped.of_keys(key, query + 8 * n);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int column = 8 * n + at.column + i % 2, query_here = query + column,
                      key_here = key + at.row + i / 2 * 8;
            const float score = is_seen ? mask.of_seen(products[0][n][i], query_here, key_here)
                                        : mask.of_any(products[0][n][i], query_here, key_here);
            const float weight = power_of_two(score - numbers.log_sum[column]);
            float dweight = dproducts[0][n][i];
            products[0][n][i] = weight;
            if constexpr (Drops) {
                const bool drops = dropped.drops(words[i]);
                products[0][n][i] = drops ? 0.0f : weight;
                dweight = drops ? 0.0f : dweight * dropped.kept;
            }
            dproducts[0][n][i] = weight * (dweight - numbers.delta[column]);
        }
    }
}

/// One tile of keys and values of one key/value head against the queries of its group, head by
/// head. While one tile of queries is met, the next is on its way.
template <typename D, int Width, bool Drops>
__global__ void __launch_bounds__(threads, key_value_gradient_blocks)
    key_value_gradients(const BackwardArguments<D> call) {
    constexpr int rows = backward_rows, passing = backward_moving_rows(Width),
                  size = rows * row_stride(Width), passing_size = passing * row_stride(Width);
    extern __shared__ __align__(16) uint4 memory[];
    __shared__ QueryNumbers<passing> numbers[2];
    BFloat16* const keys = reinterpret_cast<BFloat16*>(memory);
    BFloat16 *const values = keys + size, *const queries = values + size,
                    *const dys = queries + 2 * passing_size;
    const AttentionProblem& problem = call.problem;
    const AttentionSpan& span = problem.span;
    const int64_t index = blockIdx.x;
    const int b = static_cast<int>(index / call.key_tiles / problem.kv_heads),
              g = static_cast<int>(index / call.key_tiles % problem.kv_heads);
    const int first = static_cast<int>(index % call.key_tiles) * rows;
    const int group = problem.heads / problem.kv_heads, heads_end = (g + 1) * group;
    const bool has_documents = problem.documents != nullptr;
    DocumentRange documents;
    if (has_documents) documents = call.documents.keys.of(b, first, rows);
    const int end = span.queries_end(first, rows);
    const auto next_tile = [&](int query) {
        return call.documents.queries.next(b, documents, query, end, passing);
    };
    const auto copy_queries = [&](int head, int query, int place) {
        copy_tile<Width, passing>(queries + place * passing_size,
                                  call.q.rows(b, head, problem.width), query, span.queries,
                                  problem.width);
        copy_tile<Width, passing>(dys + place * passing_size, call.dy.rows(b, head, problem.width),
                                  query, span.queries, problem.width);
    };
    const int lane_query = static_cast<int>(threadIdx.x);  // whose numbers this thread loads
    float log_sum = 0.0f, delta = 0.0f;
    const auto load_numbers = [&](int head, int query) {
        if (lane_query >= passing) return;
        const int at = query + lane_query;
        log_sum = log2_of_e * usable_log_sum(call.log_sum.of(b, head), at, span.queries);
        delta = at < span.queries ? call.delta.of(b, head)[at] : 0.0f;
    };
    const auto give_numbers = [&](int place) {
        if (lane_query >= passing) return;
        numbers[place].log_sum[lane_query] = log_sum;
        numbers[place].delta[lane_query] = delta;
    };
    const int begin = next_tile(span.queries_begin(first, passing));
    int h = begin < end ? g * group : heads_end, query = begin;
    if (h < heads_end) {
        copy_tile<Width, rows>(keys, call.k.rows(b, g, problem.width), first, span.keys,
                               problem.width);
        copy_tile<Width, rows>(values, call.v.rows(b, g, problem.width), first, span.keys,
                               problem.width);
        copy_queries(h, query, 0);
        commit_copies();
        load_numbers(h, query);
        give_numbers(0);
    }
    const int warp_first = first + 16 * warp_index();
    BFloat16* const warp_keys = keys + 16 * warp_index() * row_stride(Width);
    BFloat16* const warp_values = values + 16 * warp_index() * row_stride(Width);
    Sums<1, Width> dk, dv;
    set_zero<1, Width>(dk);
    set_zero<1, Width>(dv);
    for (int place = 0; h < heads_end; place ^= 1) {
        int next_h = h, next = next_tile(query + passing);
        if (next >= end) {
            ++next_h;
            next = begin;
        }
        wait_for_copies<0>();
        __syncthreads();  // this tile is there, and nobody reads the one before any more
        if (next_h < heads_end) {
            copy_queries(next_h, next, place ^ 1);
            load_numbers(next_h, next);
        }
        commit_copies();
        const BFloat16 *const here = queries + place * passing_size, *const dys_here =
                                                                         dys + place * passing_size;
        Sums<1, passing> products, dproducts;
        multiply<Width, 1, passing>(
            products, [&](int, int step) { return load_left<Width>(warp_keys, step); }, here);
        multiply<Width, 1, passing>(
            dproducts, [&](int, int step) { return load_left<Width>(warp_values, step); },
            dys_here);
        bool is_seen = span.sees_all(query, passing, first, rows);
        if (has_documents)
            is_seen = is_seen && documents.is_one() &&
                      call.documents.queries.of(b, query, passing).is_one();
        weigh_keys<passing, Drops>(products, dproducts, problem, b, h, span.first_key + warp_first,
                                   span.first_query + query, is_seen, numbers[place]);
        accumulate<Width, 1, passing>(dv, products, dys_here);
        accumulate<Width, 1, passing>(dk, dproducts, here);
        give_numbers(place ^ 1);
        h = next_h;
        query = next;
    }
    give_rows<Width>(call.dk.rows(b, g, problem.width), dk, problem.scale, warp_first, span.keys,
                     problem.width, warp_keys);
    give_rows<Width>(call.dv.rows(b, g, problem.width), dv, problem.kept, warp_first, span.keys,
                     problem.width, warp_values);
}

template <typename D>
void launch(BackwardArguments<D> call, const char* name, Queue& queue) {
    AttentionProblem& problem = call.problem;
    const AttentionSpan& span = problem.span;
    const int64_t queries = span.queries, heads = problem.heads, rows = problem.batch * heads;
    if (rows * queries * span.keys == 0) return;
    problem.vectors = true;
    const int64_t deltas = (rows * queries + 1) / 2 * 2;  // what follows begins at 8 bytes
    auto* scratch = static_cast<float*>(
        queue.scratch(static_cast<size_t>(deltas + RunDocuments::floats(problem)) * sizeof(float)));
    call.delta = {scratch, heads * queries, queries};
    call.documents = RunDocuments::launch(problem, scratch + deltas, name, queue);
    launch_delta(call.delta, problem, call.dy, call.y, name, queue);
    with_tile_width(problem.width, [&]<int Width>(std::integral_constant<int, Width>) {
        call.query_tiles = (span.queries + backward_rows - 1) / backward_rows;
        call.key_tiles = (span.keys + backward_rows - 1) / backward_rows;
        const int64_t query_blocks = int64_t{call.query_tiles} * problem.batch * problem.heads,
                      key_blocks = int64_t{call.key_tiles} * problem.batch * problem.kv_heads;
        const bool drops = problem.dropped_below != 0;
        const auto of_queries =
            drops ? query_gradients<D, Width, true> : query_gradients<D, Width, false>;
        const auto of_keys =
            drops ? key_value_gradients<D, Width, true> : key_value_gradients<D, Width, false>;
        of_queries<<<blocks_for(query_blocks, 1), threads,
                     allow_shared_bytes(of_queries, backward_bytes(Width)), queue.stream()>>>(call);
        CUDA_CHECK_LAUNCH(name);
        of_keys<<<blocks_for(key_blocks, 1), threads,
                  allow_shared_bytes(of_keys, backward_bytes(Width)), queue.stream()>>>(call);
        CUDA_CHECK_LAUNCH(name);
    });
}

}  // namespace

}  // namespace tensor_core

void tensor_core_attention_backward(View dqkv, ConstView dy, ConstView y, ConstView log_sum,
                                    ConstView qkv, const AttentionShape& shape,
                                    const AttentionMask& mask, const Attention& options,
                                    Queue& queue) {
    const int64_t queries = shape.heads * shape.width, keys = shape.kv_heads * shape.width;
    using Heads = TokenHeads<const BFloat16>;
    using Gradients = TokenHeads<BFloat16>;
    tensor_core::launch<BFloat16>(
        {.problem = AttentionProblem::of(shape, mask, options),
         .dy = Heads::of(dy),
         .y = Heads::of(y),
         .q = Heads::of(qkv),
         .k = Heads::of(qkv, queries),
         .v = Heads::of(qkv, queries + keys),
         .log_sum = {log_sum.as<float>(), shape.heads * shape.tokens, shape.tokens},
         .delta = {},
         .dq = Gradients::of(dqkv),
         .dk = Gradients::of(dqkv, queries),
         .dv = Gradients::of(dqkv, queries + keys)},
        "attention_backward", queue);
}

void tensor_core_attention_part_backward(View dq, View dk, View dv, ConstView dy, ConstView y,
                                         ConstView log_sum, ConstView q, ConstView k, ConstView v,
                                         const AttentionShape& shape, const AttentionMask& mask,
                                         const AttentionPart& part, const Attention& options,
                                         Queue& queue) {
    using Heads = TokenHeads<const BFloat16>;
    using Gradients = TokenHeads<float>;
    tensor_core::launch<float>(
        {.problem = AttentionProblem::of(shape, k.dim(1), part, mask, options),
         .dy = Heads::of(dy),
         .y = Heads::of(y),
         .q = Heads::of(q),
         .k = Heads::of(k),
         .v = Heads::of(v),
         .log_sum = {log_sum.as<float>(), log_sum.stride(0), log_sum.stride(1)},
         .delta = {},
         .dq = Gradients::of(dq),
         .dk = Gradients::of(dk),
         .dv = Gradients::of(dv)},
        "attention_part_backward", queue);
}

}  // namespace plinth::kernels::cuda
