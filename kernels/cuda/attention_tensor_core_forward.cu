// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "kernels/cuda/attention_tensor_core.cuh"
#include "kernels/cuda/attention_tensor_core.h"

namespace plinth::kernels::cuda {

namespace tensor_core {

namespace {

template <typename Y>
struct ForwardArguments {
    AttentionProblem problem;
    TokenHeads<const BFloat16> q, k, v;
    TokenHeads<Y> y;
    QueryValues<float> log_sum;
    bool resumes = false;  ///< y and log_sum hold the attention over other keys
    RunDocuments documents;
    int query_tiles = 0;
};

/// Running maximum, sum and output of a lane's rows: two of each block of sixteen.
template <int Width, int Blocks>
struct RunningSoftmax {
    float largest[Blocks][2];  ///< to base 2
    float sum[Blocks][2];      ///< the lane's share
    Sums<Blocks, Width> out;

    __device__ RunningSoftmax() {
        set_zero<Blocks, Width>(out);
#pragma unroll
        for (int m = 0; m < Blocks; ++m)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                largest[m][half] = -std::numeric_limits<float>::infinity();
                sum[m][half] = 0.0f;
            }
    }

    /// Goes on where a call left off: y, times `scale`, and the log of the sum of exponentials are
    /// over other keys. Row 0 of the warp is query `first`.
    __device__ void resume(TokenRows<const float> y, const float* log_sum, float scale, int first,
                           int queries, int width) {
        const MatrixElement at = sum_element(lane_index(), 0);
#pragma unroll
        for (int m = 0; m < Blocks; ++m)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int query = first + 16 * m + at.row + 8 * half;
                if (query >= queries) continue;
                // Of a row that has seen keys, the log serves as the maximum, beside a sum of 1,
                // which one of the row's four lanes holds.
                const float before = log_sum[query];
                const bool is_empty = before == -std::numeric_limits<float>::infinity();
                largest[m][half] = before * log2_of_e;
                sum[m][half] = is_empty || at.column != 0 ? 0.0f : 1.0f;
                const float* row = y.row(query) + at.column;
#pragma unroll
                for (int n = 0; n < Width / 8; ++n)
#pragma unroll
                    for (int i = 0; i < 2; ++i)
                        if (8 * n + at.column < width)
                            out[m][n][2 * half + i] = scale * row[8 * n + i];
            }
        __syncwarp();  // before another lane of the row writes what was read
    }

    /// scores = 2^(scores - largest), with what came before shrunk to the new maxima.
    template <int Columns>
    __device__ void take(Sums<Blocks, Columns>& scores) {
#pragma unroll
        for (int m = 0; m < Blocks; ++m)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                float row = -std::numeric_limits<float>::infinity();
#pragma unroll
                for (int n = 0; n < Columns / 8; ++n)
                    row = fmaxf(row, fmaxf(scores[m][n][2 * half], scores[m][n][2 * half + 1]));
                const float before = largest[m][half], now = fmaxf(before, group_max<4>(row));
                largest[m][half] = now;
                // A row may have seen only masked keys so far.
                const float finite = now == -std::numeric_limits<float>::infinity() ? 0.0f : now;
                float part = 0.0f;
#pragma unroll
                for (int n = 0; n < Columns / 8; ++n)
#pragma unroll
                    for (int i = 2 * half; i < 2 * half + 2; ++i) {
                        scores[m][n][i] = power_of_two(scores[m][n][i] - finite);
                        part += scores[m][n][i];
                    }
                const float shrink = power_of_two(before - finite);
                sum[m][half] = fmaf(sum[m][half], shrink, part);
#pragma unroll
                for (int n = 0; n < Width / 8; ++n) {
                    out[m][n][2 * half] *= shrink;
                    out[m][n][2 * half + 1] *= shrink;
                }
            }
    }
};

/// One tile of queries of one head against all their keys. While scores are computed the values are
/// on their way, and while weights meet values the next keys.
template <typename Y, int Width, bool Drops>
__global__ void __launch_bounds__(threads, forward_blocks(Width, Drops))
    attend(const ForwardArguments<Y> call) {
    constexpr int blocks = forward_row_blocks(Width), rows = forward_queries(Width),
                  warp_rows = 16 * blocks, keys_at_once = forward_keys;
    extern __shared__ __align__(16) uint4 memory[];
    BFloat16* const queries = reinterpret_cast<BFloat16*>(memory);
    BFloat16* const keys = queries + rows * row_stride(Width);
    BFloat16* const values = keys + keys_at_once * row_stride(Width);
    const AttentionProblem& problem = call.problem;
    const AttentionSpan& span = problem.span;
    // The tiles that see most keys come first.
    const int64_t index = blockIdx.x, heads = index / call.query_tiles;
    const int tile = call.query_tiles - 1 - static_cast<int>(index % call.query_tiles);
    const int b = static_cast<int>(heads / problem.heads),
              h = static_cast<int>(heads % problem.heads), kv_head = problem.kv_head_of(h);
    const int first = tile * rows;
    const TokenRows<const BFloat16> of_keys = call.k.rows(b, kv_head, problem.width),
                                    of_values = call.v.rows(b, kv_head, problem.width);
    const bool has_documents = problem.documents != nullptr;
    DocumentRange documents;
    if (has_documents) documents = call.documents.queries.of(b, first, rows);
    const auto next_tile = [&](int key, int end) {
        return call.documents.keys.next(b, documents, key, end, keys_at_once);
    };
    const int end = span.keys_end(first, rows);
    int key = next_tile(span.keys_begin(first, keys_at_once), end);
    if (std::is_same_v<Y, float> && call.resumes && key >= end) return;  // all stays as it is
    copy_tile<Width, rows>(queries, call.q.rows(b, h, problem.width), first, span.queries,
                           problem.width);
    copy_tile<Width, keys_at_once>(keys, of_keys, key, span.keys, problem.width);
    commit_copies();
    wait_for_copies<0>();
    __syncthreads();  // without keys, too: the rows of the queries are written at the end
    BFloat16* const warp_queries = queries + warp_index() * warp_rows * row_stride(Width);
    const ScoreMask mask = ScoreMask::of(problem, b, h);
    const int warp_first = first + warp_index() * warp_rows;
    RunningSoftmax<Width, blocks> softmax;
    const TokenRows<Y> y = call.y.rows(b, h, problem.width);
    if constexpr (std::is_same_v<Y, float>)
        if (call.resumes)
            softmax.resume({y.data, y.stride}, call.log_sum.of(b, h), 1.0f / problem.kept,
                           warp_first, span.queries, problem.width);
    while (key < end) {
        wait_for_copies<0>();
        __syncthreads();  // the keys are there, and nobody reads the values before
        copy_tile<Width, keys_at_once>(values, of_values, key, span.keys, problem.width);
        commit_copies();
        Sums<blocks, keys_at_once> scores;
        multiply<Width, blocks, keys_at_once>(
            scores,
            [&](int m, int step) {
                return load_left<Width>(warp_queries + 16 * m * row_stride(Width), step);
            },
            keys);
        bool is_seen = span.sees_all(first, rows, key, keys_at_once);
        if (has_documents)
            is_seen = is_seen && documents.is_one() &&
                      call.documents.keys.of(b, key, keys_at_once).is_one();
        const int query_position = span.first_query + warp_first,
                  key_position = span.first_key + key;
        if (is_seen)
            for_sums<blocks, keys_at_once>(scores, [&](float& score, int row, int column) {
                score = mask.of_seen(score, query_position + row, key_position + column);
            });
        else
            for_sums<blocks, keys_at_once>(scores, [&](float& score, int row, int column) {
                score = mask.of_any(score, query_position + row, key_position + column);
            });
        softmax.template take<keys_at_once>(scores);
        key = next_tile(key + keys_at_once, end);
        wait_for_copies<0>();
        __syncthreads();  // the values are there, and nobody reads the keys any more
        if (key < end) copy_tile<Width, keys_at_once>(keys, of_keys, key, span.keys, problem.width);
        commit_copies();
        DroppedWeights dropped{};  // again for each tile: registers are short meanwhile
        if constexpr (Drops) dropped = DroppedWeights::of(problem, b, h);
        accumulate<Width, blocks, keys_at_once>(softmax.out, scores, values, [&](int n) {
            if constexpr (Drops) {
#pragma unroll
                for (int m = 0; m < blocks; ++m) {
                    const auto words =
                        dropped.of_queries(query_position + 16 * m, key_position + 8 * n);
#pragma unroll
                    for (int i = 0; i < 4; ++i)
                        scores[m][n][i] = dropped.drops(words[i]) ? 0.0f : scores[m][n][i];
                }
            }
        });
    }
    float inverse[blocks][2];
#pragma unroll
    for (int m = 0; m < blocks; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const float sum = group_sum<4>(softmax.sum[m][half]);
            inverse[m][half] = sum > 0.0f ? problem.kept / sum : 0.0f;
            const int query = warp_first + sum_element(lane_index(), 2 * half).row + 16 * m;
            if (lane_index() % 4 == 0 && query < span.queries)
                call.log_sum.of(b, h)[query] = softmax.largest[m][half] * ln_of_2 + logf(sum);
        }
    const auto scale = [&](int m, int half) { return inverse[m][half]; };
    if constexpr (std::is_same_v<Y, float>)
        store_rows<Width, blocks>(y, softmax.out, scale, warp_first, span.queries, problem.width,
                                  false);
    else
        store_rows<Width, blocks>(y, softmax.out, scale, warp_first, span.queries, problem.width,
                                  warp_queries);
}

template <typename Y>
void launch(ForwardArguments<Y> call, const char* name, Queue& queue) {
    const AttentionProblem& problem = call.problem;
    if (int64_t{problem.batch} * problem.span.queries == 0) return;
    float* scratch = nullptr;
    if (const int64_t floats = RunDocuments::floats(problem); floats > 0)
        scratch = static_cast<float*>(queue.scratch(static_cast<size_t>(floats) * sizeof(float)));
    call.documents = RunDocuments::launch(problem, scratch, name, queue);
    with_tile_width(problem.width, [&]<int Width>(std::integral_constant<int, Width>) {
        constexpr int rows = forward_queries(Width);
        call.query_tiles = (problem.span.queries + rows - 1) / rows;
        const int64_t blocks = int64_t{call.query_tiles} * problem.batch * problem.heads;
        const auto kernel =
            problem.dropped_below != 0 ? attend<Y, Width, true> : attend<Y, Width, false>;
        const unsigned shared = allow_shared_bytes(kernel, forward_bytes(Width));
        kernel<<<blocks_for(blocks, 1), threads, shared, queue.stream()>>>(call);
    });
    CUDA_CHECK_LAUNCH(name);
}

}  // namespace

}  // namespace tensor_core

void tensor_core_attention_forward(View y, View log_sum, ConstView qkv, const AttentionShape& shape,
                                   const AttentionMask& mask, const Attention& options,
                                   Queue& queue) {
    const int64_t queries = shape.heads * shape.width, keys = shape.kv_heads * shape.width;
    using Heads = TokenHeads<const BFloat16>;
    tensor_core::launch<BFloat16>(
        {.problem = AttentionProblem::of(shape, mask, options),
         .q = Heads::of(qkv),
         .k = Heads::of(qkv, queries),
         .v = Heads::of(qkv, queries + keys),
         .y = TokenHeads<BFloat16>::of(y),
         .log_sum = {log_sum.as<float>(), shape.heads * shape.tokens, shape.tokens}},
        "attention_forward", queue);
}

void tensor_core_attention_part_forward(View y, View log_sum, ConstView q, ConstView k, ConstView v,
                                        const AttentionShape& shape, const AttentionMask& mask,
                                        const AttentionPart& part, const Attention& options,
                                        Queue& queue) {
    using Heads = TokenHeads<const BFloat16>;
    tensor_core::launch<float>(
        {.problem = AttentionProblem::of(shape, k.dim(1), part, mask, options),
         .q = Heads::of(q),
         .k = Heads::of(k),
         .v = Heads::of(v),
         .y = TokenHeads<float>::of(y),
         .log_sum = {log_sum.as<float>(), log_sum.stride(0), log_sum.stride(1)},
         .resumes = !part.begins},
        "attention_part_forward", queue);
}

}  // namespace plinth::kernels::cuda
