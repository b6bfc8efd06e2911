// SPDX-License-Identifier: Apache-2.0
#include "kernels/cross_entropy.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cpu/elementwise.h"
#include "kernels/math.h"
#include "kernels/simd.h"

namespace plinth::kernels::cpu {

namespace {

constexpr int64_t rows_per_chunk = 4;
constexpr float lowest = -std::numeric_limits<float>::infinity();

template <typename T>
PLINTH_INLINE float largest_of(const T* x, int64_t n) {
    float largest = lowest;
#pragma omp simd reduction(max : largest)
    for (int64_t i = 0; i < n; ++i)
        largest = std::max(largest, static_cast<float>(x[i]));
    return largest;
}

template <typename T>
PLINTH_INLINE float sum_of_exponentials(const T* x, float largest, int64_t n) {
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; ++i)
        sum += exp_of(static_cast<float>(x[i]) - largest);
    return sum;
}

template <typename T>
PLINTH_INLINE void softmax_in_place(T* x, float log_sum, float factor, int64_t n) {
    for (int64_t i = 0; i < n; ++i)
        x[i] = T(factor * exp_of(static_cast<float>(x[i]) - log_sum));
}

PLINTH_SIMD float largest_in_row(const float* x, int64_t n) {
    return largest_of(x, n);
}
PLINTH_SIMD float largest_in_row(const BFloat16* x, int64_t n) {
    return largest_of(x, n);
}
PLINTH_SIMD float exponentials_in_row(const float* x, float largest, int64_t n) {
    return sum_of_exponentials(x, largest, n);
}
PLINTH_SIMD float exponentials_in_row(const BFloat16* x, float largest, int64_t n) {
    return sum_of_exponentials(x, largest, n);
}
PLINTH_SIMD void softmax_row(float* x, float log_sum, float factor, int64_t n) {
    softmax_in_place(x, log_sum, factor, n);
}
PLINTH_SIMD void softmax_row(BFloat16* x, float log_sum, float factor, int64_t n) {
    softmax_in_place(x, log_sum, factor, n);
}

/// Columns held here that are not padding.
int64_t valid_here(const CrossEntropy& options, int64_t columns) {
    return std::clamp<int64_t>(options.valid_columns - options.first_column, 0, columns);
}

void check_rows(const char* kernel, ConstView logits, ConstView targets) {
    CHECK(logits.shape.rank() == 2 && logits.is_contiguous() && targets.elements() == logits.dim(0),
          "{}: logits {} with {} targets", kernel, logits.shape.text(), targets.elements());
}

}  // namespace

void cross_entropy_local(View largest, View sum, View target_logit, ConstView logits,
                         ConstView targets, CrossEntropy options, Stream& stream) {
    check_rows("cross_entropy_local", logits, targets);
    const int64_t rows = logits.dim(0), columns = logits.dim(1),
                  valid = valid_here(options, columns);
    with_float_type(logits.dtype, "cross_entropy_local", [&]<typename T>(T) {
        parallel_for(stream, rows, rows_per_chunk, [&](int64_t begin, int64_t end) {
            for (int64_t r = begin; r < end; ++r) {
                const T* row = logits.as<T>() + r * columns;
                const float high = largest_in_row(row, valid);
                largest.as<float>()[r] = high;
                sum.as<float>()[r] = valid > 0 ? exponentials_in_row(row, high, valid) : 0.0f;
                const int64_t target = targets.as<int32_t>()[r] - options.first_column;
                target_logit.as<float>()[r] =
                    target >= 0 && target < valid ? static_cast<float>(row[target]) : lowest;
            }
        });
    });
}

void cross_entropy_combine(View largest, View sum, View target_logit, ConstView parts, Stream&) {
    CHECK(parts.shape.rank() == 3 && parts.dim(1) == 3 && parts.is_contiguous() &&
              parts.dim(2) == largest.elements(),
          "cross_entropy_combine: {} rows of parts {}", largest.elements(), parts.shape.text());
    const int64_t ranks = parts.dim(0), rows = parts.dim(2);
    const auto part = [&](int64_t rank, int64_t which, int64_t row) {
        return parts.as<float>()[(rank * 3 + which) * rows + row];
    };
    for (int64_t row = 0; row < rows; ++row) {
        float high = lowest, target = lowest, total = 0.0f;
        for (int64_t rank = 0; rank < ranks; ++rank) {
            high = std::max(high, part(rank, 0, row));
            target = std::max(target, part(rank, 2, row));
        }
        for (int64_t rank = 0; rank < ranks; ++rank)  // a rank of padding alone adds nothing
            if (part(rank, 1, row) != 0.0f)
                total += part(rank, 1, row) * exp_of(part(rank, 0, row) - high);
        largest.as<float>()[row] = high;
        sum.as<float>()[row] = total;
        target_logit.as<float>()[row] = target;
    }
}

void cross_entropy_finish(View loss, View entropy, View weight, View correct, View log_sum,
                          ConstView largest, ConstView sum, ConstView target_logit,
                          ConstView targets, CrossEntropy options, Stream&) {
    double total = 0.0, plain = 0.0;
    int64_t counted = 0, right = 0;
    for (int64_t r = 0; r < targets.elements(); ++r) {
        const float high = largest.as<float>()[r];
        const double log_total =
            static_cast<double>(high) + std::log(static_cast<double>(sum.as<float>()[r]));
        log_sum.as<float>()[r] = static_cast<float>(log_total);
        const int32_t target = targets.as<int32_t>()[r];
        if (target == options.ignored_target) continue;
        REQUIRE(data, target >= 0 && target < options.valid_columns,
                "target {} of row {} lies outside of the vocabulary of {} tokens: the data was "
                "made with another tokenizer",
                target, options.first_row + r, options.valid_columns);
        const float logit = target_logit.as<float>()[r];
        const double nats = log_total - static_cast<double>(logit);
        plain += nats;
        total += nats + options.z_loss * log_total * log_total;
        ++counted;
        right += logit == high;
    }
    *loss.as<double>() = total;
    *entropy.as<double>() = plain;
    *weight.as<int64_t>() = counted;
    *correct.as<int64_t>() = right;
}

void cross_entropy_backward(View logits, ConstView dloss, ConstView log_sum, ConstView targets,
                            CrossEntropy options, Stream& stream) {
    check_rows("cross_entropy_backward", logits, targets);
    const int64_t rows = logits.dim(0), columns = logits.dim(1),
                  valid = valid_here(options, columns);
    const float scale = *dloss.as<float>();
    with_float_type(logits.dtype, "cross_entropy_backward", [&]<typename T>(T) {
        parallel_for(stream, rows, rows_per_chunk, [&](int64_t begin, int64_t end) {
            for (int64_t r = begin; r < end; ++r) {
                T* row = logits.as<T>() + r * columns;
                if (targets.as<int32_t>()[r] == options.ignored_target) {
                    std::fill(row, row + columns, T(0.0f));
                    continue;
                }
                const float log_total = log_sum.as<float>()[r];
                const int64_t target = targets.as<int32_t>()[r] - options.first_column;
                const bool is_here = target >= 0 && target < valid;
                const float factor =
                    scale * (1.0f + 2.0f * static_cast<float>(options.z_loss) * log_total);
                // The target's own element is computed apart, before its logit is overwritten: in
                // bf16 the difference of two rounded numbers would lose what matters when the model
                // is nearly right.
                const float at_target =
                    is_here ? factor * exp_of(static_cast<float>(row[target]) - log_total) - scale
                            : 0.0f;
                softmax_row(row, log_total, factor, valid);
                if (is_here) row[target] = T(at_target);
                std::fill(row + valid, row + columns, T(0.0f));
            }
        });
    });
}

}  // namespace plinth::kernels::cpu
