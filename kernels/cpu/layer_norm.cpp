// SPDX-License-Identifier: Apache-2.0
#include "kernels/layer_norm.h"

#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/cpu/elementwise.h"
#include "kernels/norm_views.h"
#include "kernels/simd.h"

namespace plinth::kernels::cpu {

namespace {

template <typename T>
PLINTH_SIMD float row_sum(const T* x, int64_t n) {
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; ++i)
        sum += static_cast<float>(x[i]);
    return sum;
}

template <typename T>
PLINTH_SIMD float row_squares(const T* x, float mean, int64_t n) {
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; ++i) {
        const float d = static_cast<float>(x[i]) - mean;
        sum += d * d;
    }
    return sum;
}

template <typename T>
PLINTH_SIMD void normalise_row(T* y, const T* x, float mean, float rstd, const float* weight,
                               const float* bias, int64_t n) {
    for (int64_t i = 0; i < n; ++i)
        y[i] = T((static_cast<float>(x[i]) - mean) * rstd * weight[i] + bias[i]);
}

template <typename T>
PLINTH_SIMD void normalise_row(T* y, const T* x, float mean, float rstd, const float* weight,
                               int64_t n) {
    for (int64_t i = 0; i < n; ++i)
        y[i] = T((static_cast<float>(x[i]) - mean) * rstd * weight[i]);
}

/// What dx needs of a row: sums of g and g h.
struct RowSums {
    float g, gh;
};

/// Adds the row's share of the weight gradient and returns its sums. One pass over dy and x.
template <typename T>
PLINTH_SIMD RowSums gradient_sums(float* dweight, const T* dy, const T* x, const float* weight,
                                  float mean, float rstd, int64_t n) {
    float sum_g = 0.0f, sum_gh = 0.0f;
#pragma omp simd reduction(+ : sum_g, sum_gh)
    for (int64_t i = 0; i < n; ++i) {
        const auto d = static_cast<float>(dy[i]);
        const float h = (static_cast<float>(x[i]) - mean) * rstd;
        dweight[i] += d * h;
        sum_g += d * weight[i];
        sum_gh += d * weight[i] * h;
    }
    return {sum_g, sum_gh};
}

template <typename T>
PLINTH_SIMD void accumulate_row(float* sum, const T* row, int64_t n) {
    for (int64_t i = 0; i < n; ++i)
        sum[i] += static_cast<float>(row[i]);
}

template <typename T>
PLINTH_SIMD void input_gradient_row(T* dx, const T* dy, const T* x, const float* weight, float mean,
                                    float rstd, RowSums means, int64_t n) {
    for (int64_t i = 0; i < n; ++i) {
        const float h = (static_cast<float>(x[i]) - mean) * rstd;
        dx[i] = T(rstd * (static_cast<float>(dy[i]) * weight[i] - means.g - h * means.gh));
    }
}

void check_shapes(const char* kernel, ConstView rows, ConstView x, ConstView weight, ConstView mean,
                  ConstView rstd) {
    check_same_elements(kernel, rows, x);
    CHECK(weight.elements() == x.dim(-1) && mean.elements() == x.shape.rows() &&
              rstd.elements() == x.shape.rows() && rows.dtype == x.dtype,
          "{}: weight {} and statistics {}, {} for {}", kernel, weight.shape.text(),
          mean.shape.text(), rstd.shape.text(), x.shape.text());
}

}  // namespace

void layer_norm_forward(View y, View mean, View rstd, View sum, ConstView x, ConstView branch,
                        ConstView weight, ConstView bias, float eps, Stream& stream) {
    check_shapes("layer_norm_forward", y, x, weight, mean, rstd);
    check_sum("layer_norm_forward", sum, x, branch);
    CHECK(!bias || bias.elements() == x.dim(-1), "layer_norm_forward: bias {} for {}",
          bias.shape.text(), x.shape.text());
    const int64_t n = x.dim(-1);
    const float* w = weight.as<float>();
    const float* b = bias ? bias.as<float>() : nullptr;
    float *means = mean.as<float>(), *rstds = rstd.as<float>();
    with_float_type(x.dtype, "layer_norm_forward", [&]<typename T>(T) {
        const T* in = x.as<T>();
        T* out = y.as<T>();
        parallel_for(stream, x.shape.rows(), row_grain(n), [&](int64_t begin, int64_t end) {
            for (int64_t r = begin; r < end; ++r) {
                const T* row = in + r * n;
                if (branch) {
                    add_range(sum.as<T>() + r * n, row, branch.as<T>() + r * n, n);
                    row = sum.as<T>() + r * n;
                }
                const float m = row_sum(row, n) / static_cast<float>(n);
                const float variance = row_squares(row, m, n) / static_cast<float>(n);
                const float s = 1.0f / std::sqrt(variance + eps);
                means[r] = m;
                rstds[r] = s;
                if (b)
                    normalise_row(out + r * n, row, m, s, w, b, n);
                else
                    normalise_row(out + r * n, row, m, s, w, n);
            }
        });
    });
}

void layer_norm_backward(View dx, View dweight_blocks, View dbias_blocks, ConstView dy,
                         ConstView dsum, ConstView x, ConstView weight, ConstView mean,
                         ConstView rstd, Stream& stream) {
    check_shapes("layer_norm_backward", dy, x, weight, mean, rstd);
    check_dsum("layer_norm_backward", dsum, x);
    const int64_t n = x.dim(-1), rows = x.shape.rows();
    CHECK(dweight_blocks.elements() == norm_blocks(rows) * n &&
              (!dbias_blocks || dbias_blocks.elements() == norm_blocks(rows) * n) &&
              (!dx || (dx.elements() == x.elements() && dx.dtype == x.dtype)),
          "layer_norm_backward: {} and blocks {} for {}", dx.shape.text(),
          dweight_blocks.shape.text(), x.shape.text());
    const float *w = weight.as<float>(), *means = mean.as<float>(), *rstds = rstd.as<float>();
    float* dw = dweight_blocks.as<float>();
    float* db = dbias_blocks ? dbias_blocks.as<float>() : nullptr;
    with_float_type(x.dtype, "layer_norm_backward", [&]<typename T>(T) {
        const T *in = x.as<T>(), *gradient = dy.as<T>();
        const T* elsewhere = dsum ? dsum.as<T>() : nullptr;
        T* out = dx ? dx.as<T>() : nullptr;
        parallel_for(stream, rows, norm_rows_per_block, [&](int64_t begin, int64_t end) {
            const int64_t block = begin / norm_rows_per_block * n;
            const auto bytes = static_cast<size_t>(n) * sizeof(float);
            std::memset(dw + block, 0, bytes);
            if (db) std::memset(db + block, 0, bytes);
            // In the cache, between the norm's gradient and the sum: two loops that the compiler
            // turns into vectors, which it does not do with one that rounds twice.
            std::vector<T> normed(out && elsewhere ? static_cast<size_t>(n) : 0);
            for (int64_t r = begin; r < end; ++r) {
                const T *d = gradient + r * n, *row = in + r * n;
                RowSums sums = gradient_sums(dw + block, d, row, w, means[r], rstds[r], n);
                if (db) accumulate_row(db + block, d, n);
                sums.g /= static_cast<float>(n);
                sums.gh /= static_cast<float>(n);
                if (!out) continue;
                T* dx_row = elsewhere ? normed.data() : out + r * n;
                input_gradient_row(dx_row, d, row, w, means[r], rstds[r], sums, n);
                if (elsewhere) add_range(out + r * n, elsewhere + r * n, dx_row, n);
            }
        });
    });
}

}  // namespace plinth::kernels::cpu
