// SPDX-License-Identifier: Apache-2.0
// With P the weights, D = rowsum(dy * y) and S the scaled scores:
// dV = P^T dY, dS = P * (dY V^T - D), dQ = scale dS K, dK = dS^T (scale Q).
// One kernel goes over the keys for dQ, another over the queries for dK and dV: both compute the
// scores again, and no sum meets another block's.
#include "kernels/cuda/attention_tiled.h"
#include "kernels/cuda/attention_tiles.cuh"

namespace plinth::kernels::cuda {

namespace {

template <typename T>
struct BackwardArguments {
    AttentionProblem problem;
    int tiles;  ///< of a sequence
    const T *qkv, *dy, *y;
    const float* log_sum;  ///< [B, H, T]
    float* delta;          ///< [B, H, T]: D
    T* dqkv;

    __device__ int64_t columns() const {
        return int64_t{problem.heads + 2 * problem.kv_heads} * problem.width;
    }
    /// A head of packed qkv or dqkv: query heads, then key heads, then value heads.
    template <typename Element>
    __device__ TokenRows<Element> packed(Element* data, int sample, int head) const {
        return {data + int64_t{sample} * problem.tokens * columns() + int64_t{head} * problem.width,
                columns()};
    }
    __device__ TokenRows<const T> dy_rows(int sample, int head) const {
        const int64_t stride = int64_t{problem.heads} * problem.width;
        return {dy + int64_t{sample} * problem.tokens * stride + int64_t{head} * problem.width,
                stride};
    }
    __device__ const int32_t* documents(int sample) const {
        return problem.documents ? problem.documents + int64_t{sample} * problem.tokens : nullptr;
    }
};

constexpr int threads_per_row = 16;

/// delta[b, h, t] = sum of dy * y over a head's columns. Reads both once.
template <typename T>
__global__ void __launch_bounds__(attention_threads) dot_rows(const BackwardArguments<T> call) {
    const AttentionProblem& problem = call.problem;
    const int64_t row =  // of [B, T, H]
        (int64_t{blockIdx.x} * attention_threads + threadIdx.x) / threads_per_row;
    const int lane = static_cast<int>(threadIdx.x) % threads_per_row;
    const bool is_inside = row < int64_t{problem.batch} * problem.tokens * problem.heads;
    const T *dy = call.dy + row * problem.width, *y = call.y + row * problem.width;
    float sum = 0.0f;
    if (is_inside && problem.vectors)
        for (int column = lane * 4; column < problem.width; column += threads_per_row * 4) {
            const auto a = *reinterpret_cast<const Vector<T, 4>*>(dy + column);
            const auto b = *reinterpret_cast<const Vector<T, 4>*>(y + column);
#pragma unroll
            for (int i = 0; i < 4; ++i)
                sum = fmaf(to_float(a.values[i]), to_float(b.values[i]), sum);
        }
    else if (is_inside)
        for (int column = lane; column < problem.width; column += threads_per_row)
            sum = fmaf(to_float(dy[column]), to_float(y[column]), sum);
    sum = row_sum(sum);
    if (!is_inside || lane != 0) return;
    const int64_t head = row % problem.heads, token = row / problem.heads;
    call.delta[(token / problem.tokens * problem.heads + head) * problem.tokens +
               token % problem.tokens] = sum;
}

/// The log of a row's sum of exponentials, such that rows that see no key, and rows outside of the
/// sequence, get weights of 0.
__device__ inline float usable_log_sum(const float* log_sum, int token, int tokens) {
    constexpr float infinity = std::numeric_limits<float>::infinity();
    if (token >= tokens || log_sum[token] == -infinity) return infinity;
    return log_sum[token];
}

/// One tile of queries of one head against all their keys.
template <typename T, int Width>
__global__ void __launch_bounds__(attention_threads)
    query_gradients(const BackwardArguments<T> call) {
    using Tile = Tiles<Width>;
    constexpr int each = Tile::each;
    extern __shared__ __align__(16) float memory[];
    __shared__ TileDocuments<Width> documents;
    float *queries = memory, *dys = queries + Tile::size, *keys = dys + Tile::size,
          *values = keys + Tile::size, *products = values + Tile::size;
    const AttentionProblem& problem = call.problem;
    const int64_t index = blockIdx.x, heads = index / call.tiles;
    const int first = (call.tiles - 1 - static_cast<int>(index % call.tiles)) * Tile::rows;
    const int b = static_cast<int>(heads / problem.heads),
              h = static_cast<int>(heads % problem.heads);
    const int kv_head = problem.heads + h / (problem.heads / problem.kv_heads);
    TileLoad load{first, problem.tokens, problem.width, problem.scale, problem.vectors};
    load_tile<Width, false, T>(queries, call.packed(call.qkv, b, h), load);
    load.scale = 1.0f;
    load_tile<Width, false, T>(dys, call.dy_rows(b, h), load);
    const int32_t* of_token = call.documents(b);
    if (of_token) load_documents(documents.of_row, of_token, first, problem.tokens, Tile::rows);
    float log_sum[each], delta[each];
#pragma unroll
    for (int i = 0; i < each; ++i) {
        const int token = first + thread_row() * each + i;
        log_sum[i] = usable_log_sum(call.log_sum + heads * problem.tokens, token, problem.tokens);
        delta[i] = token < problem.tokens ? call.delta[heads * problem.tokens + token] : 0.0f;
    }
    const DeviceMask mask = DeviceMask::of(problem, h, problem.tokens);
    const int limit = problem.causal ? min(problem.tokens, first + Tile::rows) : problem.tokens;
    Sums<Width> dq;
    set_zero<Width>(dq);
    for (int key = 0; key < limit; key += Tile::rows) {
        load.first = key;
        __syncthreads();
        load_tile<Width, true, T>(keys, call.packed(call.qkv, b, kv_head), load);
        load_tile<Width, true, T>(values, call.packed(call.qkv, b, kv_head + problem.kv_heads),
                                  load);
        if (of_token)
            load_documents(documents.of_column, of_token, key, problem.tokens, Tile::rows);
        __syncthreads();
        Scores<Width> weights, dweights;
        multiply<Width>(weights, queries, keys, problem.width);
        multiply<Width>(dweights, dys, values, problem.width);
#pragma unroll
        for (int i = 0; i < each; ++i) {
            const int row = thread_row() * each + i, column = thread_column() * each;
            std::array<uint32_t, 4> words{};
            if (problem.dropped_below != 0)
                words = dropout_words(problem, b, h, first + row, key + column);
#pragma unroll
            for (int j = 0; j < each; ++j) {
                const bool same =
                    !of_token || documents.of_row[row] == documents.of_column[column + j];
                const float weight = exp_of(
                    mask.of_score(weights[i][j], first + row, key + column + j, same) - log_sum[i]);
                const uint32_t word = each == 4         ? words[j]
                                      : column % 4 == 0 ? words[j]
                                                        : words[2 + j];
                float dweight = dweights[i][j];
                if (problem.dropped_below != 0)
                    dweight = word < problem.dropped_below ? 0.0f : dweight * problem.kept;
                dweights[i][j] = weight * (dweight - delta[i]);
            }
        }
        store_scores<Width>(products, dweights);
        __syncwarp();
        accumulate<Width>(dq, products, keys);
    }
#pragma unroll
    for (int i = 0; i < each; ++i) {
        const int token = first + thread_row() * each + i;
        if (token >= problem.tokens) break;
        store_sums<Width>(call.packed(call.dqkv, b, h).row(token), dq[i], problem.scale,
                          problem.width);
    }
}

/// What a block of key_value_gradients reads of a tile of queries, in shared memory.
template <int Width>
struct QueryNumbers {
    float log_sum[Tiles<Width>::rows], delta[Tiles<Width>::rows];
};

template <typename T, int Width>
__device__ void load_query_numbers(QueryNumbers<Width>& numbers, const BackwardArguments<T>& call,
                                   int64_t heads, int first) {
    const int i = static_cast<int>(threadIdx.x), tokens = call.problem.tokens;
    if (i >= Tiles<Width>::rows) return;
    numbers.log_sum[i] = usable_log_sum(call.log_sum + heads * tokens, first + i, tokens);
    numbers.delta[i] = first + i < tokens ? call.delta[heads * tokens + first + i] : 0.0f;
}

/// weights = the scores' weights after dropout, dweights = gradients of the scaled scores, of keys
/// `key` + rows and queries `query` + columns of query head h of sample b.
template <typename T, int Width>
__device__ void weigh_keys(Scores<Width>& weights, Scores<Width>& dweights,
                           const BackwardArguments<T>& call, const QueryNumbers<Width>& numbers,
                           const TileDocuments<Width>* documents, int b, int h, int key,
                           int query) {
    constexpr int each = Tiles<Width>::each;
    const AttentionProblem& problem = call.problem;
    const DeviceMask mask = DeviceMask::of(problem, h, problem.tokens);
    const int row = thread_row() * each;
#pragma unroll
    for (int j = 0; j < each; ++j) {
        const int column = thread_column() * each + j;
        std::array<uint32_t, 4> words{};
        if (problem.dropped_below != 0)
            words = dropout_words(problem, b, h, query + column, key + row);
#pragma unroll
        for (int i = 0; i < each; ++i) {
            const bool same =
                documents == nullptr || documents->of_row[row + i] == documents->of_column[column];
            const float weight =
                exp_of(mask.of_score(weights[i][j], query + column, key + row + i, same) -
                       numbers.log_sum[column]);
            const uint32_t word = each == 4 ? words[i] : row % 4 == 0 ? words[i] : words[2 + i];
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
template <typename T, int Width>
__global__ void __launch_bounds__(attention_threads)
    key_value_gradients(const BackwardArguments<T> call) {
    using Tile = Tiles<Width>;
    extern __shared__ __align__(16) float memory[];
    __shared__ TileDocuments<Width> documents;
    __shared__ QueryNumbers<Width> numbers;
    float *keys = memory, *values = keys + Tile::size, *queries = values + Tile::size,
          *dys = queries + Tile::size, *products = dys + Tile::size;
    const AttentionProblem& problem = call.problem;
    const int64_t index = blockIdx.x;
    const int b = static_cast<int>(index / call.tiles / problem.kv_heads),
              g = static_cast<int>(index / call.tiles % problem.kv_heads);
    const int first = static_cast<int>(index % call.tiles) * Tile::rows;
    const int group = problem.heads / problem.kv_heads;
    const int k_head = problem.heads + g, v_head = k_head + problem.kv_heads;
    TileLoad load{first, problem.tokens, problem.width, 1.0f, problem.vectors};
    load_tile<Width, false, T>(keys, call.packed(call.qkv, b, k_head), load);
    load_tile<Width, false, T>(values, call.packed(call.qkv, b, v_head), load);
    const int32_t* of_token = call.documents(b);
    if (of_token) load_documents(documents.of_row, of_token, first, problem.tokens, Tile::rows);
    Sums<Width> dk, dv;
    set_zero<Width>(dk);
    set_zero<Width>(dv);
    for (int h = g * group; h < (g + 1) * group; ++h)
        for (int query = problem.causal ? first : 0; query < problem.tokens; query += Tile::rows) {
            load.first = query;
            __syncthreads();
            load.scale = problem.scale;
            load_tile<Width, true, T>(queries, call.packed(call.qkv, b, h), load);
            load.scale = 1.0f;
            load_tile<Width, true, T>(dys, call.dy_rows(b, h), load);
            load_query_numbers<T, Width>(numbers, call, int64_t{b} * problem.heads + h, query);
            if (of_token)
                load_documents(documents.of_column, of_token, query, problem.tokens, Tile::rows);
            __syncthreads();
            Scores<Width> weights, dweights;
            multiply<Width>(weights, keys, queries, problem.width);
            multiply<Width>(dweights, values, dys, problem.width);
            weigh_keys<T, Width>(weights, dweights, call, numbers, of_token ? &documents : nullptr,
                                 b, h, first, query);
            store_scores<Width>(products, weights);
            __syncwarp();
            accumulate<Width>(dv, products, dys);
            __syncwarp();
            store_scores<Width>(products, dweights);
            __syncwarp();
            accumulate<Width>(dk, products, queries);
        }
#pragma unroll
    for (int i = 0; i < Tile::each; ++i) {
        const int token = first + thread_row() * Tile::each + i;
        if (token >= problem.tokens) break;
        store_sums<Width>(call.packed(call.dqkv, b, k_head).row(token), dk[i], 1.0f, problem.width);
        store_sums<Width>(call.packed(call.dqkv, b, v_head).row(token), dv[i], 1.0f, problem.width);
    }
}

template <typename T>
void launch(BackwardArguments<T> call, Queue& queue) {
    const AttentionProblem& problem = call.problem;
    const int64_t rows = int64_t{problem.batch} * problem.tokens * problem.heads;
    dot_rows<T><<<blocks_for(rows, attention_threads / threads_per_row), attention_threads, 0,
                  queue.stream()>>>(call);
    CUDA_CHECK_LAUNCH("attention_backward");
    with_tile_width(problem.width, [&]<int Width>(std::integral_constant<int, Width>) {
        using Tile = Tiles<Width>;
        call.tiles = (problem.tokens + Tile::rows - 1) / Tile::rows;
        const int64_t blocks = int64_t{call.tiles} * problem.batch;
        const auto of_queries = query_gradients<T, Width>;
        const auto of_keys = key_value_gradients<T, Width>;
        const int floats = 4 * Tile::size + Tile::score_size;
        of_queries<<<blocks_for(blocks * problem.heads, 1), attention_threads,
                     allow_shared_floats(of_queries, floats), queue.stream()>>>(call);
        CUDA_CHECK_LAUNCH("attention_backward");
        of_keys<<<blocks_for(blocks * problem.kv_heads, 1), attention_threads,
                  allow_shared_floats(of_keys, floats), queue.stream()>>>(call);
        CUDA_CHECK_LAUNCH("attention_backward");
    });
}

}  // namespace

void tiled_attention_backward(View dqkv, ConstView dy, ConstView y, ConstView log_sum,
                              ConstView qkv, const AttentionShape& shape, const AttentionMask& mask,
                              const Attention& options, Queue& queue) {
    if (dqkv.elements() == 0) return;
    const size_t rows = static_cast<size_t>(shape.batch * shape.heads * shape.tokens);
    auto* delta = static_cast<float*>(queue.scratch(rows * sizeof(float)));
    with_device_float(qkv.dtype, "attention_backward", [&]<typename T>(T) {
        BackwardArguments<T> call{.problem = AttentionProblem::of(shape, mask, options),
                                  .tiles = 0,
                                  .qkv = qkv.as<T>(),
                                  .dy = dy.as<T>(),
                                  .y = y.as<T>(),
                                  .log_sum = log_sum.as<float>(),
                                  .delta = delta,
                                  .dqkv = dqkv.as<T>()};
        call.problem.vectors = shape.width % 4 == 0 && is_aligned(call.qkv, 4 * sizeof(T)) &&
                               is_aligned(call.dy, 4 * sizeof(T)) &&
                               is_aligned(call.y, 4 * sizeof(T));
        launch<T>(call, queue);
    });
}

}  // namespace plinth::kernels::cuda
