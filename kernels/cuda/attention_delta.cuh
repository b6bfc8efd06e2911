// SPDX-License-Identifier: Apache-2.0
// The first kernel of each backward pass of attention.
#pragma once

#include "kernels/cuda/attention_problem.cuh"

namespace plinth::kernels::cuda {

inline constexpr int delta_threads = 256;
inline constexpr int delta_threads_per_row = 16;

/// delta[b, h, t] = sum of dy * y over a head's columns. Reads both once.
template <typename T>
__global__ void __launch_bounds__(delta_threads)
    dot_rows(const QueryValues<float> delta, const AttentionProblem problem,
             const TokenHeads<const T> dy_heads, const TokenHeads<const T> y_heads) {
    const int64_t row =  // of [B, N, H]
        (int64_t{blockIdx.x} * delta_threads + threadIdx.x) / delta_threads_per_row;
    const int lane = static_cast<int>(threadIdx.x) % delta_threads_per_row;
    const bool is_inside = row < int64_t{problem.batch} * problem.span.queries * problem.heads;
    const int64_t token = row / problem.heads;
    const int h = static_cast<int>(row % problem.heads),
              query = static_cast<int>(token % problem.span.queries),
              b = static_cast<int>(token / problem.span.queries);
    const T* dy = dy_heads.rows(b, h, problem.width).row(query);
    const T* y = y_heads.rows(b, h, problem.width).row(query);
    float sum = 0.0f;
    if (is_inside && problem.vectors)
        for (int column = lane * 4; column < problem.width; column += delta_threads_per_row * 4) {
            const auto left = *reinterpret_cast<const Vector<T, 4>*>(dy + column);
            const auto right = *reinterpret_cast<const Vector<T, 4>*>(y + column);
#pragma unroll
            for (int i = 0; i < 4; ++i)
                sum = fmaf(to_float(left.values[i]), to_float(right.values[i]), sum);
        }
    else if (is_inside)
        for (int column = lane; column < problem.width; column += delta_threads_per_row)
            sum = fmaf(to_float(dy[column]), to_float(y[column]), sum);
    sum = group_sum<delta_threads_per_row>(sum);
    if (is_inside && lane == 0) delta.of(b, h)[query] = sum;
}

template <typename T>
void launch_delta(QueryValues<float> delta, const AttentionProblem& problem, TokenHeads<const T> dy,
                  TokenHeads<const T> y, const char* name, Queue& queue) {
    const int64_t rows = int64_t{problem.batch} * problem.span.queries * problem.heads;
    dot_rows<T><<<blocks_for(rows, delta_threads / delta_threads_per_row), delta_threads, 0,
                  queue.stream()>>>(delta, problem, dy, y);
    CUDA_CHECK_LAUNCH(name);
}

}  // namespace plinth::kernels::cuda
