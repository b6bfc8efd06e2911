// SPDX-License-Identifier: Apache-2.0
// N rows, V columns. A block of threads takes a row. A row may begin anywhere (V is odd where the
// vocabulary is not padded): single values up to the first 16-byte boundary, vectors, single
// values.
#include "kernels/cross_entropy.h"

#include <cfloat>
#include <cmath>

#include "kernels/cuda/held_row.cuh"
#include "kernels/math.h"

namespace plinth::kernels::cuda {

namespace {

constexpr int vectors_in_flight = 4;
constexpr int finish_threads = 1024;

/// e^x of a row of T. With fp32 logits that of the CPU. A pass over bf16 logits has 19 instructions
/// an element before it is slower than memory, so there it is the hardware's 2^x (relative error
/// 2^-22, far below that of the logits).
template <typename T>
__device__ inline float exponential(float x) {
    if constexpr (std::is_same_v<T, float>)
        return exp_of(x);
    else {
        constexpr float log2_e = 1.44269504f;
        float y;
        asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x * log2_e));
        return y;
    }
}

/// [0, head) single values, then `vectors` vectors, then [tail, n) single values.
template <typename T>
struct RowParts {
    static constexpr int width = widest<T>;
    int head, vectors, tail;

    __device__ RowParts(const T* row, int n) {
        const auto past = static_cast<int>(reinterpret_cast<uintptr_t>(row) % 16 / sizeof(T));
        head = min(n, (width - past) % width);
        vectors = (n - head) / width;
        tail = head + vectors * width;
    }
};

/// A running sum of e^(x - largest). The largest begins finite, so that logits of -infinity add 0.
template <typename T>
struct SoftmaxSum {
    float largest = -FLT_MAX, sum = 0.0f;

    __device__ void raise(float value) {
        if (!(value > largest)) return;  // a NaN shows in the sum
        sum *= exponential<T>(largest - value);
        largest = value;
    }
    __device__ void add(float x) {
        raise(x);
        sum += exponential<T>(x - largest);
    }
    /// Several vectors at once: one largest value, then independent sums.
    template <int N>
    __device__ void add(const Vector<T, N> (&x)[vectors_in_flight]) {
        float high = -FLT_MAX;
#pragma unroll
        for (int i = 0; i < vectors_in_flight; ++i)
#pragma unroll
            for (int j = 0; j < N; ++j)
                high = fmaxf(high, to_float(x[i].values[j]));
        raise(high);
#pragma unroll
        for (int i = 0; i < vectors_in_flight; ++i) {
            float part = 0.0f;
#pragma unroll
            for (int j = 0; j < N; ++j)
                part += exponential<T>(to_float(x[i].values[j]) - largest);
            sum += part;
        }
    }
};

/// N logits that add nothing.
template <typename T, int N>
__device__ inline Vector<T, N> nothing() {
    float lowest[N];
#pragma unroll
    for (int j = 0; j < N; ++j)
        lowest[j] = -INFINITY;
    return rounded<T>(lowest);
}

__device__ float block_max(float value) {
    __shared__ float parts[32];
    __syncthreads();
    value = warp_max(value);
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = value;
    __syncthreads();
    const bool has_part = threadIdx.x % 32 < blockDim.x / 32;
    return warp_max(has_part ? parts[threadIdx.x % 32] : -FLT_MAX);
}

// Moves one read of the logits.
template <typename T>
__global__ void local_rows(float* largest, float* sum, float* target_logit, const T* logits,
                           const int32_t* targets, int columns, int valid, int64_t first_column) {
    constexpr int N = widest<T>;
    const int64_t r = blockIdx.x;
    const T* row = logits + r * columns;
    const RowParts<T> parts(row, valid);
    const int thread = static_cast<int>(threadIdx.x), step = static_cast<int>(blockDim.x);
    SoftmaxSum<T> mine;
    for (int i = thread; i < parts.head; i += step)
        mine.add(to_float(row[i]));
    const T* body = row + parts.head;
    for (int v = thread; v < parts.vectors; v += vectors_in_flight * step) {
        Vector<T, N> x[vectors_in_flight];
#pragma unroll
        for (int i = 0; i < vectors_in_flight; ++i) {
            const int at = v + i * step;
            x[i] = at < parts.vectors ? load<N>(body + int64_t{at} * N) : nothing<T, N>();
        }
        mine.add(x);
    }
    for (int i = parts.tail + thread; i < valid; i += step)
        mine.add(to_float(row[i]));
    const float high = block_max(mine.largest);
    const float total = block_sum(mine.sum * exponential<T>(mine.largest - high));
    if (thread != 0) return;
    const bool is_empty = high == -FLT_MAX && total == 0.0f;
    largest[r] = is_empty ? -INFINITY : high;
    sum[r] = total;
    const int64_t target = targets[r] - first_column;
    target_logit[r] = target >= 0 && target < valid ? to_float(row[target]) : -INFINITY;
}

__global__ void combine_rows(float* largest, float* sum, float* target_logit, const float* parts,
                             int64_t ranks, int64_t rows) {
    const int64_t row = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
    if (row >= rows) return;
    const auto part = [&](int64_t rank, int64_t which) {
        return parts[(rank * 3 + which) * rows + row];
    };
    float high = -INFINITY, target = -INFINITY, total = 0.0f;
    for (int64_t rank = 0; rank < ranks; ++rank) {
        high = fmaxf(high, part(rank, 0));
        target = fmaxf(target, part(rank, 2));
    }
    for (int64_t rank = 0; rank < ranks; ++rank)  // a rank of padding alone adds nothing
        if (part(rank, 1) != 0.0f) total += part(rank, 1) * exp_of(part(rank, 0) - high);
    largest[row] = high;
    sum[row] = total;
    target_logit[row] = target;
}

/// What `finish` adds up.
struct Totals {
    double loss, entropy;
    int64_t weight, correct;
};

struct FinishResults {
    double *loss, *entropy;
    int64_t *weight, *correct;
};

/// Sums over the block in a fixed order: to the results, or as this block's part of them.
__device__ void add_totals(Totals mine, Totals* parts, const FinishResults& results) {
    const Totals sum{block_sum(mine.loss), block_sum(mine.entropy), block_sum(mine.weight),
                     block_sum(mine.correct)};
    if (threadIdx.x != 0) return;
    if (gridDim.x > 1) {
        parts[blockIdx.x] = sum;
        return;
    }
    *results.loss = sum.loss;
    *results.entropy = sum.entropy;
    *results.weight = sum.weight;
    *results.correct = sum.correct;
}

__global__ void __launch_bounds__(finish_threads)
    finish_rows(Totals* parts, FinishResults results, float* log_sum, const float* largest,
                const float* sum, const float* target_logit, const int32_t* targets, int64_t rows,
                CrossEntropy options, Fault* fault) {
    const int64_t r = int64_t{blockIdx.x} * finish_threads + threadIdx.x;
    Totals mine{};
    if (r < rows) {
        const float high = largest[r];
        const double log_total = static_cast<double>(high) + log(static_cast<double>(sum[r]));
        log_sum[r] = static_cast<float>(log_total);
        const int32_t target = targets[r];
        if (target == options.ignored_target) {
            // no loss
        } else if (target < 0 || target >= options.valid_columns) {
            report(fault, Fault::target_outside_vocabulary, target, options.first_row + r,
                   options.valid_columns);
        } else {
            const float logit = target_logit[r];
            const double nats = log_total - static_cast<double>(logit);
            mine = {nats + options.z_loss * log_total * log_total, nats, 1, logit == high};
        }
    }
    add_totals(mine, parts, results);
}

__global__ void __launch_bounds__(finish_threads)
    finish_parts(FinishResults results, const Totals* parts, int64_t count) {
    Totals mine{};
    for (int64_t i = threadIdx.x; i < count; i += finish_threads) {
        mine.loss += parts[i].loss;
        mine.entropy += parts[i].entropy;
        mine.weight += parts[i].weight;
        mine.correct += parts[i].correct;
    }
    add_totals(mine, nullptr, results);
}

template <typename T>
__device__ void fill_zero(T* row, int begin, int end) {
    constexpr int N = widest<T>;
    const int thread = static_cast<int>(threadIdx.x), step = static_cast<int>(blockDim.x);
    row += begin;
    const RowParts<T> parts(row, end - begin);
    for (int i = thread; i < parts.head; i += step)
        row[i] = from_float<T>(0.0f);
    for (int v = thread; v < parts.vectors; v += step)
        *reinterpret_cast<uint4*>(row + parts.head + int64_t{v} * N) = uint4{0, 0, 0, 0};
    for (int i = parts.tail + thread; i < end - begin; i += step)
        row[i] = from_float<T>(0.0f);
}

/// A logit's gradient. The target's is one difference of unrounded numbers.
template <typename T>
struct LogitGradient {
    float factor, log_total, scale;
    int target;  ///< -1: not here

    __device__ float operator()(float logit, int column) const {
        const float softmax = factor * exponential<T>(logit - log_total);
        return column == target ? softmax - scale : softmax;
    }
};

// Moves one read and one write of the logits.
template <typename T>
__global__ void backward_rows(T* logits, const float* dloss, const float* log_sum,
                              const int32_t* targets, int columns, int valid,
                              CrossEntropy options) {
    constexpr int N = widest<T>;
    const int64_t r = blockIdx.x;
    T* row = logits + r * columns;
    if (targets[r] == options.ignored_target) return fill_zero(row, 0, columns);
    const float scale = *dloss, log_total = log_sum[r];
    const int64_t target = targets[r] - options.first_column;
    const LogitGradient<T> gradient{
        .factor = scale * (1.0f + 2.0f * static_cast<float>(options.z_loss) * log_total),
        .log_total = log_total,
        .scale = scale,
        .target = target >= 0 && target < valid ? static_cast<int>(target) : -1};
    const RowParts<T> parts(row, valid);
    const int thread = static_cast<int>(threadIdx.x), step = static_cast<int>(blockDim.x);
    for (int i = thread; i < parts.head; i += step)
        row[i] = from_float<T>(gradient(to_float(row[i]), i));
    for (int v = thread; v < parts.vectors; v += vectors_in_flight * step) {
        Vector<T, N> x[vectors_in_flight];
#pragma unroll
        for (int i = 0; i < vectors_in_flight; ++i)
            if (v + i * step < parts.vectors)
                x[i] = load<N>(row + parts.head + int64_t{v + i * step} * N);
#pragma unroll
        for (int i = 0; i < vectors_in_flight; ++i)
            if (v + i * step < parts.vectors) {
                const int column = parts.head + (v + i * step) * N;
                float dx[N];
#pragma unroll
                for (int j = 0; j < N; ++j)
                    dx[j] = gradient(to_float(x[i].values[j]), column + j);
                store(row + column, rounded<T>(dx));
            }
    }
    for (int i = parts.tail + thread; i < valid; i += step)
        row[i] = from_float<T>(gradient(to_float(row[i]), i));
    fill_zero(row, valid, columns);
}

/// Columns held here that are not padding.
int valid_here(const CrossEntropy& options, int64_t columns) {
    return static_cast<int>(
        std::clamp<int64_t>(options.valid_columns - options.first_column, 0, columns));
}

/// Threads that share a row.
unsigned row_threads(int64_t columns) {
    return columns >= 8192 ? 256 : columns >= 1024 ? 128 : 32;
}

void check_rows(const char* kernel, ConstView logits, ConstView targets) {
    CHECK(logits.shape.rank() == 2 && logits.is_contiguous() && targets.elements() == logits.dim(0),
          "{}: logits {} with {} targets", kernel, logits.shape.text(), targets.elements());
}

}  // namespace

void cross_entropy_local(View largest, View sum, View target_logit, ConstView logits,
                         ConstView targets, CrossEntropy options, Stream& stream) {
    check_rows("cross_entropy_local", logits, targets);
    const int64_t rows = logits.dim(0), columns = logits.dim(1);
    if (rows == 0) return;
    with_device_float(logits.dtype, "cross_entropy_local", [&]<typename T>(T) {
        local_rows<<<static_cast<unsigned>(rows), row_threads(columns), 0,
                     queue_of(stream).stream()>>>(
            largest.as<float>(), sum.as<float>(), target_logit.as<float>(), logits.as<T>(),
            targets.as<int32_t>(), static_cast<int>(columns), valid_here(options, columns),
            options.first_column);
    });
    CUDA_CHECK_LAUNCH("cross_entropy_local");
}

void cross_entropy_combine(View largest, View sum, View target_logit, ConstView parts,
                           Stream& stream) {
    CHECK(parts.shape.rank() == 3 && parts.dim(1) == 3 && parts.is_contiguous() &&
              parts.dim(2) == largest.elements(),
          "cross_entropy_combine: {} rows of parts {}", largest.elements(), parts.shape.text());
    const int64_t rows = parts.dim(2);
    if (rows == 0) return;
    constexpr int threads = 256;
    combine_rows<<<blocks_for(rows, threads), threads, 0, queue_of(stream).stream()>>>(
        largest.as<float>(), sum.as<float>(), target_logit.as<float>(), parts.as<float>(),
        parts.dim(0), rows);
    CUDA_CHECK_LAUNCH("cross_entropy_combine");
}

void cross_entropy_finish(View loss, View entropy, View weight, View correct, View log_sum,
                          ConstView largest, ConstView sum, ConstView target_logit,
                          ConstView targets, CrossEntropy options, Stream& stream) {
    Queue& queue = queue_of(stream);
    const int64_t rows = targets.elements();
    const unsigned blocks = blocks_for(rows, finish_threads);
    auto* parts =
        static_cast<Totals*>(blocks > 1 ? queue.scratch(blocks * sizeof(Totals)) : nullptr);
    const FinishResults results{loss.as<double>(), entropy.as<double>(), weight.as<int64_t>(),
                                correct.as<int64_t>()};
    finish_rows<<<blocks, finish_threads, 0, queue.stream()>>>(
        parts, results, log_sum.as<float>(), largest.as<float>(), sum.as<float>(),
        target_logit.as<float>(), targets.as<int32_t>(), rows, options, queue.fault());
    CUDA_CHECK_LAUNCH("cross_entropy_finish");
    if (blocks == 1) return;
    finish_parts<<<1, finish_threads, 0, queue.stream()>>>(results, parts, blocks);
    CUDA_CHECK_LAUNCH("cross_entropy_finish");
}

void cross_entropy_backward(View logits, ConstView dloss, ConstView log_sum, ConstView targets,
                            CrossEntropy options, Stream& stream) {
    check_rows("cross_entropy_backward", logits, targets);
    const int64_t rows = logits.dim(0), columns = logits.dim(1);
    if (rows == 0) return;
    with_device_float(logits.dtype, "cross_entropy_backward", [&]<typename T>(T) {
        backward_rows<<<static_cast<unsigned>(rows), row_threads(columns), 0,
                        queue_of(stream).stream()>>>(
            logits.as<T>(), dloss.as<float>(), log_sum.as<float>(), targets.as<int32_t>(),
            static_cast<int>(columns), valid_here(options, columns), options);
    });
    CUDA_CHECK_LAUNCH("cross_entropy_backward");
}

PLINTH_CUDA_KERNEL(cross_entropy_local);
PLINTH_CUDA_KERNEL(cross_entropy_combine);
PLINTH_CUDA_KERNEL(cross_entropy_finish);
PLINTH_CUDA_KERNEL(cross_entropy_backward);

}  // namespace plinth::kernels::cuda
