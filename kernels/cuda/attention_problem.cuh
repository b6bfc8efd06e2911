// SPDX-License-Identifier: Apache-2.0
// What all own kernels of attention share: where tensors lie, masks, and the numbers of dropped
// weights.
#pragma once

#include <limits>

#include "kernels/attention_shape.h"
#include "kernels/cuda/attention_span.h"
#include "kernels/cuda/rows.cuh"

namespace plinth::kernels::cuda {

/// One head of a sample's tokens: `width` elements each, `stride` apart.
template <typename T>
struct TokenRows {
    T* data;
    int64_t stride;
    __device__ T* row(int64_t i) const { return data + i * stride; }
};

/// The heads of a tensor [B, N, heads * K], by its strides.
template <typename T>
struct TokenHeads {
    T* data;
    int64_t sample, token;  ///< from one to the next

    /// Head 0 begins at this column of the view's rows.
    template <typename AnyView>
    static TokenHeads of(const AnyView& view, int64_t column = 0) {
        return {view.template as<std::remove_const_t<T>>() + column, view.stride(0),
                view.stride(1)};
    }
    /// True where heads of a multiple of four columns can be read four at once.
    bool takes_vectors() const {
        return sample % 4 == 0 && token % 4 == 0 && is_aligned(data, 4 * sizeof(T));
    }
    __device__ TokenRows<T> rows(int sample_index, int head, int width) const {
        return {data + sample_index * sample + int64_t{head} * width, token};
    }
};

/// A number of each query, [B, H, N] with queries side by side.
template <typename T>
struct QueryValues {
    T* data;
    int64_t sample, head;  ///< from one to the next
    __device__ T* of(int sample_index, int head_index) const {
        return data + sample_index * sample + head_index * head;
    }
};

/// What one call of a kernel shares between its blocks.
struct AttentionProblem {
    int batch, heads, kv_heads, width;
    AttentionSpan span;
    int tokens;  ///< of a sequence
    float scale;
    bool vectors;
    const float* slopes;       ///< may be null
    const int32_t* documents;  ///< [B, tokens]; may be null
    const int64_t* samples;    ///< may be null
    uint32_t dropped_below;    ///< 0: no dropout
    float kept;                ///< factor of the weights that stay
    StepKey random;
    uint64_t first_head;

    /// The shape's tokens are the queries.
    static AttentionProblem of(const AttentionShape& shape, int64_t keys, const AttentionPart& part,
                               const AttentionMask& mask, const Attention& options) {
        return {static_cast<int>(shape.batch),
                static_cast<int>(shape.heads),
                static_cast<int>(shape.kv_heads),
                static_cast<int>(shape.width),
                {static_cast<int>(shape.tokens), static_cast<int>(keys),
                 static_cast<int>(part.first_query), static_cast<int>(part.first_key),
                 options.causal, static_cast<int>(std::min<int64_t>(options.window, 1 << 30))},
                static_cast<int>(part.tokens),
                shape.scale,
                false,
                mask.slopes ? mask.slopes.as<float>() : nullptr,
                mask.documents ? mask.documents.as<int32_t>() : nullptr,
                mask.samples ? mask.samples.as<int64_t>() : nullptr,
                static_cast<uint32_t>(static_cast<double>(options.dropout) * 0x1p32),
                1.0f / (1.0f - options.dropout),
                options.random,
                static_cast<uint64_t>(options.first_head)};
    }
    /// Of whole sequences.
    static AttentionProblem of(const AttentionShape& shape, const AttentionMask& mask,
                               const Attention& options) {
        return of(shape, shape.tokens, {.tokens = shape.tokens}, mask, options);
    }

    __device__ int kv_head_of(int head) const { return head / (heads / kv_heads); }
    /// Of the tokens at this position of a sample and behind it; null: no documents.
    __device__ const int32_t* documents_from(int sample, int position) const {
        return documents ? documents + int64_t{sample} * tokens + position : nullptr;
    }
};

/// The masks of one (sample, head), by position.
struct DeviceMask {
    bool causal;
    int window;  ///< 0: all keys
    float slope;
    int keys;  ///< keys from this position on do not exist

    static __device__ DeviceMask of(const AttentionProblem& problem, int head,
                                    const AttentionSpan& span) {
        return {span.causal, span.window, problem.slopes ? problem.slopes[head] : 0.0f,
                span.first_key + span.keys};
    }
    __device__ bool sees(int query, int key) const {
        return key < keys && (!causal || key <= query) && (window == 0 || query - key < window);
    }
    /// The score with ALiBi, or -infinity.
    __device__ float of_score(float score, int query, int key, bool same_document) const {
        if (!same_document || !sees(query, key)) return -std::numeric_limits<float>::infinity();
        return slope != 0.0f ? score + slope * static_cast<float>(key - query) : score;
    }
};

/// The random words of one (sample, head) that decide which weights are dropped; of none where
/// there is no dropout.
struct DropoutNumbers {
    RandomKey random;
    uint64_t head, sample;  ///< the global head where the counter holds it, the global sample

    static __device__ DropoutNumbers of(const AttentionProblem& problem, int sample, int head) {
        if (problem.dropped_below == 0) return {};
        return {problem.random.get(), (problem.first_head + static_cast<uint64_t>(head)) << 48,
                static_cast<uint64_t>(problem.samples[sample])};
    }
    /// Of one query against the keys at positions 4n .. 4n + 3.
    __device__ std::array<uint32_t, 4> words(int query, int key) const {
        return random.words(
            head | (static_cast<uint64_t>(query) << 24) | static_cast<uint64_t>(key / 4), sample);
    }
};

/// The log of a row's sum of exponentials, such that rows that see no key, and rows outside of the
/// run, get weights of 0.
__device__ inline float usable_log_sum(const float* log_sum, int query, int queries) {
    constexpr float infinity = std::numeric_limits<float>::infinity();
    if (query >= queries || log_sum[query] == -infinity) return infinity;
    return log_sum[query];
}

/// Maximum and sum over groups of neighbouring lanes, in a fixed order; each lane gets it.
template <int Lanes>
__device__ inline float group_max(float value) {
#pragma unroll
    for (int distance = Lanes / 2; distance > 0; distance /= 2)
        value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, distance));
    return value;
}
template <int Lanes>
__device__ inline float group_sum(float value) {
#pragma unroll
    for (int distance = Lanes / 2; distance > 0; distance /= 2)
        value += __shfl_xor_sync(0xffffffffu, value, distance);
    return value;
}

}  // namespace plinth::kernels::cuda
