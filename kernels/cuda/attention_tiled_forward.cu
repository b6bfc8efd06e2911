// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "kernels/cuda/attention_tiled.h"
#include "kernels/cuda/attention_tiles.cuh"

namespace plinth::kernels::cuda {

namespace {

template <typename T>
struct ForwardArguments {
    AttentionProblem problem;
    int query_blocks;
    /// Of head 0 of sample 0; from a token to the next, and from a sample to the next.
    const T *q, *k, *v;
    int64_t q_stride, q_sample, kv_stride, kv_sample;
    T* y;
    float* log_sum;         ///< [B, H, T], or null
    const int32_t* starts;  ///< [B]: tokens before the queries; null: none
    int capacity;           ///< keys that a sample has room for
    Fault* fault;
};

/// Running maximum, sum and output of a thread's rows.
template <int Width>
struct RunningSoftmax {
    float largest[Tiles<Width>::each], sum[Tiles<Width>::each];
    Sums<Width> out;

    __device__ RunningSoftmax() {
        set_zero<Width>(out);
#pragma unroll
        for (int i = 0; i < Tiles<Width>::each; ++i) {
            largest[i] = -std::numeric_limits<float>::infinity();
            sum[i] = 0.0f;
        }
    }

    /// scores = e^(scores - largest), with what came before shrunk to the new maxima.
    __device__ void take(Scores<Width>& scores) {
        constexpr int each = Tiles<Width>::each;
#pragma unroll
        for (int i = 0; i < each; ++i) {
            float row = scores[i][0];
#pragma unroll
            for (int j = 1; j < each; ++j)
                row = fmaxf(row, scores[i][j]);
            const float before = largest[i];
            largest[i] = fmaxf(before, row_max(row));
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
            sum[i] = fmaf(sum[i], shrink, row_sum(part));
#pragma unroll
            for (int c = 0; c < Tiles<Width>::columns; ++c)
                out[i][c] *= shrink;
        }
    }
};

/// What of a block's work does not change from one tile of keys to the next.
struct QueryTile {
    int sample, head;
    int first;   ///< number, among the new tokens, of its first query
    int before;  ///< keys before the new tokens
};

/// scores += masks; false, in all threads, if no query of the tile sees any of these keys.
template <int Width>
__device__ bool mask_scores(Scores<Width>& scores, const DeviceMask& mask, int query, int key,
                            const TileDocuments<Width>* documents) {
    constexpr int each = Tiles<Width>::each;
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

template <int Width>
__device__ void drop_weights(Scores<Width>& weights, const AttentionProblem& problem,
                             const QueryTile& tile, int key) {
    constexpr int each = Tiles<Width>::each;
    const int column = key + thread_column() * each;
#pragma unroll
    for (int i = 0; i < each; ++i) {
        const auto words =
            dropout_words(problem, tile.sample, tile.head,
                          tile.before + tile.first + thread_row() * each + i, column);
#pragma unroll
        for (int j = 0; j < each; ++j) {
            const uint32_t word = each == 4 ? words[j] : column % 4 == 0 ? words[j] : words[2 + j];
            weights[i][j] = word < problem.dropped_below ? 0.0f : weights[i][j] * problem.kept;
        }
    }
}

/// One tile of queries of one head against all their keys.
template <typename T, int Width>
__global__ void __launch_bounds__(attention_threads) attend(const ForwardArguments<T> call) {
    using Tile = Tiles<Width>;
    extern __shared__ __align__(16) float memory[];
    __shared__ TileDocuments<Width> documents;
    float *queries = memory, *moving = queries + Tile::size, *weights = moving + Tile::size;
    const AttentionProblem& problem = call.problem;
    // The tiles that see most keys come first.
    const int64_t index = blockIdx.x, heads = index / call.query_blocks;
    const int block = call.query_blocks - 1 - static_cast<int>(index % call.query_blocks);
    QueryTile tile{static_cast<int>(heads / problem.heads), static_cast<int>(heads % problem.heads),
                   block * Tile::rows, 0};
    if (call.starts) tile.before = call.starts[tile.sample];
    const int keys = tile.before + problem.tokens;
    if (tile.before < 0 || keys > call.capacity) {
        if (threadIdx.x == 0)
            report(call.fault, Fault::cache_is_full, keys, tile.sample, call.capacity);
        return;
    }
    const int limit = problem.causal ? min(keys, tile.before + tile.first + Tile::rows) : keys;
    const int64_t kv_offset =
        tile.sample * call.kv_sample +
        int64_t{tile.head} / (problem.heads / problem.kv_heads) * problem.width;
    const int32_t* of_token =
        problem.documents ? problem.documents + int64_t{tile.sample} * problem.tokens : nullptr;
    load_tile<Width, false, T>(
        queries,
        {call.q + tile.sample * call.q_sample + int64_t{tile.head} * problem.width, call.q_stride},
        {tile.first, problem.tokens, problem.width, problem.scale, problem.vectors});
    if (of_token)
        load_documents(documents.of_row, of_token, tile.first, problem.tokens, Tile::rows);
    const DeviceMask mask = DeviceMask::of(problem, tile.head, keys);
    RunningSoftmax<Width> softmax;
    for (int key = 0; key < limit; key += Tile::rows) {
        const TileLoad load{key, keys, problem.width, 1.0f, problem.vectors};
        __syncthreads();
        load_tile<Width, true, T>(moving, {call.k + kv_offset, call.kv_stride}, load);
        if (of_token) load_documents(documents.of_column, of_token, key, keys, Tile::rows);
        __syncthreads();
        Scores<Width> scores;
        multiply<Width>(scores, queries, moving, problem.width);
        if (!mask_scores<Width>(scores, mask, tile.before + tile.first, key,
                                of_token ? &documents : nullptr))
            continue;
        softmax.take(scores);
        if (problem.dropped_below != 0) drop_weights<Width>(scores, problem, tile, key);
        store_scores<Width>(weights, scores);
        __syncthreads();
        load_tile<Width, true, T>(moving, {call.v + kv_offset, call.kv_stride}, load);
        __syncthreads();
        accumulate<Width>(softmax.out, weights, moving);
    }
#pragma unroll
    for (int i = 0; i < Tile::each; ++i) {
        const int token = tile.first + thread_row() * Tile::each + i;
        if (token >= problem.tokens) break;
        const int64_t row = int64_t{tile.sample} * problem.tokens + token;
        store_sums<Width>(call.y + (row * problem.heads + tile.head) * problem.width,
                          softmax.out[i], softmax.sum[i] > 0.0f ? 1.0f / softmax.sum[i] : 0.0f,
                          problem.width);
        if (call.log_sum && thread_column() == 0)
            call.log_sum[heads * problem.tokens + token] =
                softmax.largest[i] + logf(softmax.sum[i]);
    }
}

template <typename T>
void launch(ForwardArguments<T> call, Queue& queue) {
    AttentionProblem& problem = call.problem;
    if (int64_t{problem.batch} * problem.tokens == 0 || problem.width == 0) return;
    problem.vectors = problem.width % 4 == 0 && call.q_stride % 4 == 0 && call.kv_stride % 4 == 0 &&
                      call.q_sample % 4 == 0 && call.kv_sample % 4 == 0 &&
                      is_aligned(call.q, 4 * sizeof(T)) && is_aligned(call.k, 4 * sizeof(T)) &&
                      is_aligned(call.v, 4 * sizeof(T));
    call.fault = queue.fault();
    with_tile_width(problem.width, [&]<int Width>(std::integral_constant<int, Width>) {
        using Tile = Tiles<Width>;
        call.query_blocks = (problem.tokens + Tile::rows - 1) / Tile::rows;
        const int64_t blocks = int64_t{call.query_blocks} * problem.batch * problem.heads;
        const auto kernel = attend<T, Width>;
        const unsigned shared = allow_shared_floats(kernel, 2 * Tile::size + Tile::score_size);
        kernel<<<blocks_for(blocks, 1), attention_threads, shared, queue.stream()>>>(call);
    });
}

}  // namespace

void tiled_attention_forward(View y, View log_sum, ConstView qkv, const AttentionShape& shape,
                             const AttentionMask& mask, const Attention& options, Queue& queue) {
    with_device_float(qkv.dtype, "attention_forward", [&]<typename T>(T) {
        const T* q = qkv.as<T>();
        const int64_t stride = shape.columns(), sample = shape.tokens * stride;
        launch<T>({.problem = AttentionProblem::of(shape, mask, options),
                   .q = q,
                   .k = q + shape.heads * shape.width,
                   .v = q + (shape.heads + shape.kv_heads) * shape.width,
                   .q_stride = stride,
                   .q_sample = sample,
                   .kv_stride = stride,
                   .kv_sample = sample,
                   .y = y.as<T>(),
                   .log_sum = log_sum.as<float>(),
                   .starts = nullptr,
                   .capacity = static_cast<int>(shape.tokens)},
                  queue);
    });
    CUDA_CHECK_LAUNCH("attention_forward");
}

void tiled_attention_cached(View y, ConstView q, ConstView k, ConstView v, ConstView starts,
                            ConstView slopes, const AttentionShape& shape, const Attention& options,
                            Queue& queue) {
    with_device_float(y.dtype, "attention_cached", [&]<typename T>(T) {
        launch<T>({.problem = AttentionProblem::of(shape, {.slopes = slopes}, options),
                   .q = q.as<T>(),
                   .k = k.as<T>(),
                   .v = v.as<T>(),
                   .q_stride = q.stride(1),
                   .q_sample = q.stride(0),
                   .kv_stride = k.stride(1),
                   .kv_sample = k.stride(0),
                   .y = y.as<T>(),
                   .log_sum = nullptr,
                   .starts = starts.as<int32_t>(),
                   .capacity = static_cast<int>(k.dim(1))},
                  queue);
    });
    CUDA_CHECK_LAUNCH("attention_cached");
}

}  // namespace plinth::kernels::cuda
