// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "kernels/cuda/attention_tiled.h"
#include "kernels/cuda/attention_tiles.cuh"

namespace plinth::kernels::cuda {

namespace {

template <typename T, typename Y>
struct ForwardArguments {
    AttentionProblem problem;
    TokenHeads<const T> q, k, v;
    TokenHeads<Y> y;
    QueryValues<float> log_sum;       ///< without data: not wanted
    bool resumes = false;             ///< y and log_sum hold the attention over other keys
    const int32_t* starts = nullptr;  ///< [B]: tokens before the queries; null: as the span says
    int capacity = 0;                 ///< keys that a sample has room for, beside starts
    int query_blocks = 0;
    Fault* fault = nullptr;
};

/// Running maximum, sum and output of a thread's rows.
template <typename Tile>
struct RunningSoftmax {
    float largest[Tile::each], sum[Tile::each];
    Sums<Tile> out;

    __device__ RunningSoftmax() {
        set_zero<Tile>(out);
#pragma unroll
        for (int i = 0; i < Tile::each; ++i) {
            largest[i] = -std::numeric_limits<float>::infinity();
            sum[i] = 0.0f;
        }
    }

    /// Goes on where a call left off: row i is query first + i, its y and its log of the sum of
    /// exponentials are over other keys.
    __device__ void resume(TokenRows<const float> y, const float* log_sum, int first, int queries,
                           int width) {
#pragma unroll
        for (int i = 0; i < Tile::each; ++i) {
            const int query = first + thread_row() * Tile::each + i;
            if (query >= queries) break;
            // Of a row that has seen keys, the log serves as the maximum, beside a sum of 1.
            largest[i] = log_sum[query];
            sum[i] = largest[i] == -std::numeric_limits<float>::infinity() ? 0.0f : 1.0f;
            load_sums<Tile>(out[i], y.row(query), width);
        }
        __syncwarp();  // before another thread of the row writes what was read
    }

    /// scores = e^(scores - largest), with what came before shrunk to the new maxima.
    __device__ void take(Scores<Tile>& scores) {
        constexpr int each = Tile::each;
#pragma unroll
        for (int i = 0; i < each; ++i) {
            float row = scores[i][0];
#pragma unroll
            for (int j = 1; j < each; ++j)
                row = fmaxf(row, scores[i][j]);
            const float before = largest[i];
            largest[i] = fmaxf(before, group_max<16>(row));
            // A row may have seen only masked keys so far.
            const float finite =
                largest[i] == -std::numeric_limits<float>::infinity() ? 0.0f : largest[i];
            float part = 0.0f;
#pragma unroll
            for (int j = 0; j < each; ++j) {
                scores[i][j] = exp_of(scores[i][j] - finite);
                part += scores[i][j];
            }
            const float shrink = exp_of(before - finite);
            sum[i] = fmaf(sum[i], shrink, group_sum<16>(part));
#pragma unroll
            for (int c = 0; c < Tile::columns; ++c)
                out[i][c] *= shrink;
        }
    }
};

/// What of a block's work does not change from one tile of keys to the next.
struct QueryTile {
    int sample, head;
    int first;     ///< number of its first query
    int position;  ///< of that one in the sequence
};

/// scores += masks, of the query and key at these positions and those behind them; false, in all
/// threads, if no query of the tile sees any of these keys.
template <typename Tile>
__device__ bool mask_scores(Scores<Tile>& scores, const DeviceMask& mask, int query, int key,
                            const TileDocuments<Tile>* documents) {
    constexpr int each = Tile::each;
    int is_seen = 0;
#pragma unroll
    for (int i = 0; i < each; ++i)
#pragma unroll
        for (int j = 0; j < each; ++j) {
            const int row = thread_row() * each + i, column = thread_column() * each + j;
            const bool same =
                documents == nullptr || documents->of_row[row] == documents->of_column[column];
            scores[i][j] = mask.of_score(scores[i][j], query + row, key + column, same);
            is_seen |= same && mask.sees(query + row, key + column);
        }
    return documents == nullptr || __syncthreads_or(is_seen) != 0;
}

template <typename Tile>
__device__ void drop_weights(Scores<Tile>& weights, const AttentionProblem& problem,
                             const QueryTile& tile, int key_position) {
    constexpr int each = Tile::each;
    const int column = key_position + thread_column() * each;
    const auto numbers = DropoutNumbers::of(problem, tile.sample, tile.head);
#pragma unroll
    for (int i = 0; i < each; ++i) {
        const auto words = numbers.words(tile.position + thread_row() * each + i, column);
#pragma unroll
        for (int j = 0; j < each; ++j) {
            const uint32_t word = word_of<each>(words, column, j);
            weights[i][j] = word < problem.dropped_below ? 0.0f : weights[i][j] * problem.kept;
        }
    }
}

/// One tile of queries of one head against all their keys. Two blocks on a multiprocessor: 128
/// registers a thread, which the compiler does not choose by itself for each of them.
template <typename T, typename Y, typename Tile>
__global__ void __launch_bounds__(attention_threads, 2) attend(const ForwardArguments<T, Y> call) {
    extern __shared__ __align__(16) float memory[];
    __shared__ TileDocuments<Tile> documents;
    float *queries = memory, *moving = queries + Tile::size, *weights = moving + Tile::size;
    const AttentionProblem& problem = call.problem;
    // The tiles that see most keys come first.
    const int64_t index = blockIdx.x, heads = index / call.query_blocks;
    const int block = call.query_blocks - 1 - static_cast<int>(index % call.query_blocks);
    const int b = static_cast<int>(heads / problem.heads),
              h = static_cast<int>(heads % problem.heads);
    AttentionSpan span = problem.span;
    if (call.starts) {
        span.first_query = call.starts[b];
        span.keys = span.first_query + span.queries;
        if (span.first_query < 0 || span.keys > call.capacity) {
            if (threadIdx.x == 0)
                report(call.fault, Fault::cache_is_full, span.keys, b, call.capacity);
            return;
        }
    }
    const QueryTile tile{b, h, block * Tile::rows, span.first_query + block * Tile::rows};
    const bool has_documents = problem.documents != nullptr;
    TileLoad load{tile.first, span.queries, problem.width, problem.scale, problem.vectors};
    load_tile<Tile, false, T>(queries, call.q.rows(b, h, problem.width), load);
    if (has_documents)
        load_documents(documents.of_row, problem.documents_from(b, span.first_query), tile.first,
                       span.queries, Tile::rows);
    const DeviceMask mask = DeviceMask::of(problem, h, span);
    const TokenRows<Y> y = call.y.rows(b, h, problem.width);
    RunningSoftmax<Tile> softmax;
    if constexpr (std::is_same_v<Y, float>)
        if (call.resumes)
            softmax.resume({y.data, y.stride}, call.log_sum.of(b, h), tile.first, span.queries,
                           problem.width);
    load.limit = span.keys;
    load.scale = 1.0f;
    const int limit = span.keys_end(tile.first, Tile::rows), kv_head = problem.kv_head_of(h);
    for (int key = span.keys_begin(tile.first, Tile::rows); key < limit; key += Tile::rows) {
        load.first = key;
        __syncthreads();
        load_tile<Tile, true, T>(moving, call.k.rows(b, kv_head, problem.width), load);
        if (has_documents)
            load_documents(documents.of_column, problem.documents_from(b, span.first_key), key,
                           span.keys, Tile::rows);
        __syncthreads();
        Scores<Tile> scores;
        multiply<Tile>(scores, queries, moving, problem.width);
        if (!mask_scores<Tile>(scores, mask, tile.position, span.first_key + key,
                               has_documents ? &documents : nullptr))
            continue;
        softmax.take(scores);
        if (problem.dropped_below != 0)
            drop_weights<Tile>(scores, problem, tile, span.first_key + key);
        store_scores<Tile>(weights, scores);
        __syncthreads();
        load_tile<Tile, true, T>(moving, call.v.rows(b, kv_head, problem.width), load);
        __syncthreads();
        accumulate<Tile>(softmax.out, weights, moving);
    }
#pragma unroll
    for (int i = 0; i < Tile::each; ++i) {
        const int query = tile.first + thread_row() * Tile::each + i;
        if (query >= span.queries) break;
        store_sums<Tile>(y.row(query), softmax.out[i],
                         softmax.sum[i] > 0.0f ? 1.0f / softmax.sum[i] : 0.0f, problem.width);
        if (call.log_sum.data && thread_column() == 0)
            call.log_sum.of(b, h)[query] = softmax.largest[i] + logf(softmax.sum[i]);
    }
}

template <typename T, typename Y>
void launch(ForwardArguments<T, Y> call, const char* name, Queue& queue) {
    AttentionProblem& problem = call.problem;
    if (int64_t{problem.batch} * problem.span.queries == 0 || problem.width == 0) return;
    problem.vectors = problem.width % 4 == 0 && call.q.takes_vectors() && call.k.takes_vectors() &&
                      call.v.takes_vectors();
    call.fault = queue.fault();
    const auto& state = queue.state<AttentionState>();
    const AttentionTile chosen = choose_forward_tile(problem.width, state.shared_bytes, state.card);
    with_tile<forward_tiles>(chosen, [&]<typename Tile>(Tile) {
        call.query_blocks = (problem.span.queries + Tile::rows - 1) / Tile::rows;
        const int64_t blocks = int64_t{call.query_blocks} * problem.batch * problem.heads;
        const auto kernel = attend<T, Y, Tile>;
        const unsigned shared = allow_shared_floats(kernel, Tile::extents.forward_floats());
        kernel<<<blocks_for(blocks, 1), attention_threads, shared, queue.stream()>>>(call);
    });
    CUDA_CHECK_LAUNCH(name);
}

}  // namespace

void tiled_attention_forward(View y, View log_sum, ConstView qkv, const AttentionShape& shape,
                             const AttentionMask& mask, const Attention& options, Queue& queue) {
    const int64_t queries = shape.heads * shape.width, keys = shape.kv_heads * shape.width;
    with_device_float(qkv.dtype, "attention_forward", [&]<typename T>(T) {
        using Heads = TokenHeads<const T>;
        launch<T, T>({.problem = AttentionProblem::of(shape, mask, options),
                      .q = Heads::of(qkv),
                      .k = Heads::of(qkv, queries),
                      .v = Heads::of(qkv, queries + keys),
                      .y = TokenHeads<T>::of(y),
                      .log_sum = {log_sum.as<float>(), shape.heads * shape.tokens, shape.tokens}},
                     "attention_forward", queue);
    });
}

void tiled_attention_cached(View y, ConstView q, ConstView k, ConstView v, ConstView starts,
                            ConstView slopes, const AttentionShape& shape, const Attention& options,
                            Queue& queue) {
    with_device_float(y.dtype, "attention_cached", [&]<typename T>(T) {
        using Heads = TokenHeads<const T>;
        launch<T, T>({.problem = AttentionProblem::of(shape, {.slopes = slopes}, options),
                      .q = Heads::of(q),
                      .k = Heads::of(k),
                      .v = Heads::of(v),
                      .y = TokenHeads<T>::of(y),
                      .log_sum = {},
                      .starts = starts.as<int32_t>(),
                      .capacity = static_cast<int>(k.dim(1))},
                     "attention_cached", queue);
    });
}

void tiled_attention_part_forward(View y, View log_sum, ConstView q, ConstView k, ConstView v,
                                  const AttentionShape& shape, const AttentionMask& mask,
                                  const AttentionPart& part, const Attention& options,
                                  Queue& queue) {
    with_device_float(q.dtype, "attention_part_forward", [&]<typename T>(T) {
        using Heads = TokenHeads<const T>;
        launch<T, float>({.problem = AttentionProblem::of(shape, k.dim(1), part, mask, options),
                          .q = Heads::of(q),
                          .k = Heads::of(k),
                          .v = Heads::of(v),
                          .y = TokenHeads<float>::of(y),
                          .log_sum = {log_sum.as<float>(), log_sum.stride(0), log_sum.stride(1)},
                          .resumes = !part.begins},
                         "attention_part_forward", queue);
    });
}

}  // namespace plinth::kernels::cuda
