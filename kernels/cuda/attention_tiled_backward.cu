// SPDX-License-Identifier: Apache-2.0
// With P the weights, D = rowsum(dy * y) and S the scaled scores:
// dV = P^T dY, dS = P * (dY V^T - D), dQ = scale dS K, dK = dS^T (scale Q).
// One kernel goes over the keys for dQ, another over the queries for dK and dV: both compute the
// scores again, and no sum meets another block's.
#include "kernels/cuda/attention_delta.cuh"
#include "kernels/cuda/attention_tiled.h"
#include "kernels/cuda/attention_tiles.cuh"

namespace plinth::kernels::cuda {

namespace {

/// T of the values, D of the gradients.
template <typename T, typename D>
struct BackwardArguments {
    AttentionProblem problem;
    TokenHeads<const T> dy, y, q, k, v;
    QueryValues<const float> log_sum;
    QueryValues<float> delta;  ///< the D of the formulas
    TokenHeads<D> dq, dk, dv;
    bool adds = false;  ///< to fp32 gradients, in place of setting them
    int query_tiles = 0, key_tiles = 0;
};

/// Gradient `to` = scale * row i of the sums, or has that added.
template <typename Tile, typename D>
__device__ void give_sums(D* to, const float (&row)[Tile::columns], float scale, int width,
                          bool adds) {
    if constexpr (std::is_same_v<D, float>)
        if (adds) return add_sums<Tile>(to, row, scale, width);
    store_sums<Tile>(to, row, scale, width);
}

/// One tile of queries of one head against all their keys.
template <typename T, typename D, typename Tile>
__global__ void __launch_bounds__(attention_threads)
    query_gradients(const BackwardArguments<T, D> call) {
    constexpr int each = Tile::each;
    extern __shared__ __align__(16) float memory[];
    __shared__ TileDocuments<Tile> documents;
    float *queries = memory, *dys = queries + Tile::size, *keys = dys + Tile::size,
          *values = keys + Tile::size, *products = values + Tile::size;
    const AttentionProblem& problem = call.problem;
    const AttentionSpan& span = problem.span;
    const int64_t index = blockIdx.x, heads = index / call.query_tiles;
    const int first =
        (call.query_tiles - 1 - static_cast<int>(index % call.query_tiles)) * Tile::rows;
    const int b = static_cast<int>(heads / problem.heads),
              h = static_cast<int>(heads % problem.heads), kv_head = problem.kv_head_of(h);
    const bool has_documents = problem.documents != nullptr;
    TileLoad load{first, span.queries, problem.width, problem.scale, problem.vectors};
    load_tile<Tile, false, T>(queries, call.q.rows(b, h, problem.width), load);
    load.scale = 1.0f;
    load_tile<Tile, false, T>(dys, call.dy.rows(b, h, problem.width), load);
    if (has_documents)
        load_documents(documents.of_row, problem.documents_from(b, span.first_query), first,
                       span.queries, Tile::rows);
    float log_sum[each], delta[each];
#pragma unroll
    for (int i = 0; i < each; ++i) {
        const int query = first + thread_row() * each + i;
        log_sum[i] = usable_log_sum(call.log_sum.of(b, h), query, span.queries);
        delta[i] = query < span.queries ? call.delta.of(b, h)[query] : 0.0f;
    }
    const DeviceMask mask = DeviceMask::of(problem, h, span);
    const int limit = span.keys_end(first, Tile::rows);
    Sums<Tile> dq;
    set_zero<Tile>(dq);
    load.limit = span.keys;
    for (int key = span.keys_begin(first, Tile::rows); key < limit; key += Tile::rows) {
        load.first = key;
        __syncthreads();
        load_tile<Tile, true, T>(keys, call.k.rows(b, kv_head, problem.width), load);
        load_tile<Tile, true, T>(values, call.v.rows(b, kv_head, problem.width), load);
        if (has_documents)
            load_documents(documents.of_column, problem.documents_from(b, span.first_key), key,
                           span.keys, Tile::rows);
        __syncthreads();
        Scores<Tile> weights, dweights;
        multiply<Tile>(weights, queries, keys, problem.width);
        multiply<Tile>(dweights, dys, values, problem.width);
        const auto numbers = DropoutNumbers::of(problem, b, h);
#pragma unroll
        for (int i = 0; i < each; ++i) {
            const int row = thread_row() * each + i, column = thread_column() * each;
            const int query_position = span.first_query + first + row,
                      key_position = span.first_key + key + column;
            std::array<uint32_t, 4> words{};
            if (problem.dropped_below != 0) words = numbers.words(query_position, key_position);
#pragma unroll
            for (int j = 0; j < each; ++j) {
                const bool same =
                    !has_documents || documents.of_row[row] == documents.of_column[column + j];
                const float weight =
                    exp_of(mask.of_score(weights[i][j], query_position, key_position + j, same) -
                           log_sum[i]);
                const uint32_t word = word_of<each>(words, key_position, j);
                float dweight = dweights[i][j];
                if (problem.dropped_below != 0)
                    dweight = word < problem.dropped_below ? 0.0f : dweight * problem.kept;
                dweights[i][j] = weight * (dweight - delta[i]);
            }
        }
        store_scores<Tile>(products, dweights);
        __syncwarp();
        accumulate<Tile>(dq, products, keys);
    }
#pragma unroll
    for (int i = 0; i < each; ++i) {
        const int query = first + thread_row() * each + i;
        if (query >= span.queries) break;
        give_sums<Tile>(call.dq.rows(b, h, problem.width).row(query), dq[i], problem.scale,
                        problem.width, call.adds);
    }
}

/// What a block of key_value_gradients reads of a tile of queries, in shared memory.
template <typename Tile>
struct QueryNumbers {
    float log_sum[Tile::rows], delta[Tile::rows];
};

template <typename T, typename D, typename Tile>
__device__ void load_query_numbers(QueryNumbers<Tile>& numbers, const BackwardArguments<T, D>& call,
                                   int b, int h, int first) {
    const int i = static_cast<int>(threadIdx.x), queries = call.problem.span.queries;
    if (i >= Tile::rows) return;
    numbers.log_sum[i] = usable_log_sum(call.log_sum.of(b, h), first + i, queries);
    numbers.delta[i] = first + i < queries ? call.delta.of(b, h)[first + i] : 0.0f;
}

/// weights = the scores' weights after dropout, dweights = gradients of the scaled scores, of the
/// keys at position `key` + rows and the queries at `query` + columns of query head h of sample b.
template <typename Tile>
__device__ void weigh_keys(Scores<Tile>& weights, Scores<Tile>& dweights,
                           const AttentionProblem& problem, const QueryNumbers<Tile>& numbers,
                           const TileDocuments<Tile>* documents, int b, int h, int key, int query) {
    constexpr int each = Tile::each;
    const DeviceMask mask = DeviceMask::of(problem, h, problem.span);
    const auto random = DropoutNumbers::of(problem, b, h);
    const int row = thread_row() * each;
#pragma unroll
    for (int j = 0; j < each; ++j) {
        const int column = thread_column() * each + j;
        std::array<uint32_t, 4> words{};
        if (problem.dropped_below != 0) words = random.words(query + column, key + row);
#pragma unroll
        for (int i = 0; i < each; ++i) {
            const bool same =
                documents == nullptr || documents->of_row[row + i] == documents->of_column[column];
            const float weight =
                exp_of(mask.of_score(weights[i][j], query + column, key + row + i, same) -
                       numbers.log_sum[column]);
            const uint32_t word = word_of<each>(words, key + row, i);
            const float factor = problem.dropped_below == 0     ? 1.0f
                                 : word < problem.dropped_below ? 0.0f
                                                                : problem.kept;
            weights[i][j] = factor * weight;
            dweights[i][j] = weight * (factor * dweights[i][j] - numbers.delta[column]);
        }
    }
}

/// One tile of keys and values of one key/value head against the queries of its group, head by
/// head.
template <typename T, typename D, typename Tile>
__global__ void __launch_bounds__(attention_threads)
    key_value_gradients(const BackwardArguments<T, D> call) {
    extern __shared__ __align__(16) float memory[];
    __shared__ TileDocuments<Tile> documents;
    __shared__ QueryNumbers<Tile> numbers;
    float *keys = memory, *values = keys + Tile::size, *queries = values + Tile::size,
          *dys = queries + Tile::size, *products = dys + Tile::size;
    const AttentionProblem& problem = call.problem;
    const AttentionSpan& span = problem.span;
    const int64_t index = blockIdx.x;
    const int b = static_cast<int>(index / call.key_tiles / problem.kv_heads),
              g = static_cast<int>(index / call.key_tiles % problem.kv_heads);
    const int first = static_cast<int>(index % call.key_tiles) * Tile::rows;
    const int group = problem.heads / problem.kv_heads;
    const bool has_documents = problem.documents != nullptr;
    TileLoad load{first, span.keys, problem.width, 1.0f, problem.vectors};
    load_tile<Tile, false, T>(keys, call.k.rows(b, g, problem.width), load);
    load_tile<Tile, false, T>(values, call.v.rows(b, g, problem.width), load);
    if (has_documents)
        load_documents(documents.of_row, problem.documents_from(b, span.first_key), first,
                       span.keys, Tile::rows);
    Sums<Tile> dk, dv;
    set_zero<Tile>(dk);
    set_zero<Tile>(dv);
    load.limit = span.queries;
    const int queries_end = span.queries_end(first, Tile::rows);
    for (int h = g * group; h < (g + 1) * group; ++h)
        for (int query = span.queries_begin(first, Tile::rows); query < queries_end;
             query += Tile::rows) {
            load.first = query;
            __syncthreads();
            load.scale = problem.scale;
            load_tile<Tile, true, T>(queries, call.q.rows(b, h, problem.width), load);
            load.scale = 1.0f;
            load_tile<Tile, true, T>(dys, call.dy.rows(b, h, problem.width), load);
            load_query_numbers(numbers, call, b, h, query);
            if (has_documents)
                load_documents(documents.of_column, problem.documents_from(b, span.first_query),
                               query, span.queries, Tile::rows);
            __syncthreads();
            Scores<Tile> weights, dweights;
            multiply<Tile>(weights, keys, queries, problem.width);
            multiply<Tile>(dweights, values, dys, problem.width);
            weigh_keys<Tile>(weights, dweights, problem, numbers,
                             has_documents ? &documents : nullptr, b, h, span.first_key + first,
                             span.first_query + query);
            store_scores<Tile>(products, weights);
            __syncwarp();
            accumulate<Tile>(dv, products, dys);
            __syncwarp();
            store_scores<Tile>(products, dweights);
            __syncwarp();
            accumulate<Tile>(dk, products, queries);
        }
#pragma unroll
    for (int i = 0; i < Tile::each; ++i) {
        const int key = first + thread_row() * Tile::each + i;
        if (key >= span.keys) break;
        give_sums<Tile>(call.dk.rows(b, g, problem.width).row(key), dk[i], 1.0f, problem.width,
                        call.adds);
        give_sums<Tile>(call.dv.rows(b, g, problem.width).row(key), dv[i], 1.0f, problem.width,
                        call.adds);
    }
}

template <typename T, typename D>
void launch(BackwardArguments<T, D> call, const char* name, Queue& queue) {
    AttentionProblem& problem = call.problem;
    const AttentionSpan& span = problem.span;
    const int64_t queries = span.queries, heads = problem.heads, rows = problem.batch * heads;
    if (rows * queries * span.keys * problem.width == 0) return;
    problem.vectors = problem.width % 4 == 0 && call.dy.takes_vectors() && call.y.takes_vectors() &&
                      call.q.takes_vectors() && call.k.takes_vectors() && call.v.takes_vectors();
    const auto& state = queue.state<AttentionState>();
    const AttentionTile chosen =
        choose_backward_tile(problem.width, state.shared_bytes, state.card);
    const size_t bytes = static_cast<size_t>(rows * queries) * sizeof(float);
    call.delta = {static_cast<float*>(queue.scratch(bytes)), heads * queries, queries};
    launch_delta(call.delta, problem, call.dy, call.y, name, queue);
    with_tile<backward_tiles>(chosen, [&]<typename Tile>(Tile) {
        call.query_tiles = (span.queries + Tile::rows - 1) / Tile::rows;
        call.key_tiles = (span.keys + Tile::rows - 1) / Tile::rows;
        const int64_t query_blocks = int64_t{call.query_tiles} * problem.batch * problem.heads,
                      key_blocks = int64_t{call.key_tiles} * problem.batch * problem.kv_heads;
        const auto of_queries = query_gradients<T, D, Tile>;
        const auto of_keys = key_value_gradients<T, D, Tile>;
        const int floats = Tile::extents.backward_floats();
        of_queries<<<blocks_for(query_blocks, 1), attention_threads,
                     allow_shared_floats(of_queries, floats), queue.stream()>>>(call);
        CUDA_CHECK_LAUNCH(name);
        of_keys<<<blocks_for(key_blocks, 1), attention_threads,
                  allow_shared_floats(of_keys, floats), queue.stream()>>>(call);
        CUDA_CHECK_LAUNCH(name);
    });
}

}  // namespace

void tiled_attention_backward(View dqkv, ConstView dy, ConstView y, ConstView log_sum,
                              ConstView qkv, const AttentionShape& shape, const AttentionMask& mask,
                              const Attention& options, Queue& queue) {
    const int64_t queries = shape.heads * shape.width, keys = shape.kv_heads * shape.width;
    with_device_float(qkv.dtype, "attention_backward", [&]<typename T>(T) {
        using Heads = TokenHeads<const T>;
        using Gradients = TokenHeads<T>;
        launch<T, T>({.problem = AttentionProblem::of(shape, mask, options),
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
    });
}

void tiled_attention_part_backward(View dq, View dk, View dv, ConstView dy, ConstView y,
                                   ConstView log_sum, ConstView q, ConstView k, ConstView v,
                                   const AttentionShape& shape, const AttentionMask& mask,
                                   const AttentionPart& part, const Attention& options,
                                   Queue& queue) {
    with_device_float(q.dtype, "attention_part_backward", [&]<typename T>(T) {
        using Heads = TokenHeads<const T>;
        using Gradients = TokenHeads<float>;
        launch<T, float>({.problem = AttentionProblem::of(shape, k.dim(1), part, mask, options),
                          .dy = Heads::of(dy),
                          .y = Heads::of(y),
                          .q = Heads::of(q),
                          .k = Heads::of(k),
                          .v = Heads::of(v),
                          .log_sum = {log_sum.as<float>(), log_sum.stride(0), log_sum.stride(1)},
                          .delta = {},
                          .dq = Gradients::of(dq),
                          .dk = Gradients::of(dk),
                          .dv = Gradients::of(dv),
                          .adds = true},
                         "attention_part_backward", queue);
    });
}

}  // namespace plinth::kernels::cuda
