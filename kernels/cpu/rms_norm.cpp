// SPDX-License-Identifier: Apache-2.0
#include "kernels/rms_norm.h"

#include <cmath>
#include <vector>

#include "kernels/cpu/elementwise.h"
#include "kernels/norm_views.h"
#include "kernels/simd.h"

namespace plinth::kernels::cpu {

namespace {

constexpr int64_t rows_per_block = 64;

template <typename T>
PLINTH_INLINE float sum_of_squares(const T* x, int64_t n) {
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; ++i)
        sum += static_cast<float>(x[i]) * static_cast<float>(x[i]);
    return sum;
}

template <typename T>
PLINTH_INLINE float forward_row(T* y, const T* x, const float* weight, double eps, int64_t n) {
    const float mean_square = sum_of_squares(x, n) / static_cast<float>(n);
    const float rstd = 1.0f / std::sqrt(mean_square + static_cast<float>(eps));
    for (int64_t i = 0; i < n; ++i)
        y[i] = T(static_cast<float>(x[i]) * rstd * weight[i]);
    return rstd;
}

template <typename T>
PLINTH_INLINE void dx_row(T* dx, const T* dy, const T* x, const float* weight, float rstd,
                          int64_t n) {
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; ++i)
        sum += static_cast<float>(dy[i]) * weight[i] * (static_cast<float>(x[i]) * rstd);
    const float mean = sum / static_cast<float>(n);
    for (int64_t i = 0; i < n; ++i) {
        const float scaled = static_cast<float>(x[i]) * rstd;
        dx[i] = T(rstd * (static_cast<float>(dy[i]) * weight[i] - scaled * mean));
    }
}

template <typename T>
PLINTH_INLINE void add_dweight_row(float* dweight, const T* dy, const T* x, float rstd, int64_t n) {
    for (int64_t i = 0; i < n; ++i)
        dweight[i] += static_cast<float>(dy[i]) * (static_cast<float>(x[i]) * rstd);
}

PLINTH_SIMD float forward(float* y, const float* x, const float* weight, double eps, int64_t n) {
    return forward_row(y, x, weight, eps, n);
}
PLINTH_SIMD float forward(BFloat16* y, const BFloat16* x, const float* weight, double eps,
                          int64_t n) {
    return forward_row(y, x, weight, eps, n);
}
PLINTH_SIMD void input_gradient(float* dx, const float* dy, const float* x, const float* weight,
                                float rstd, int64_t n) {
    dx_row(dx, dy, x, weight, rstd, n);
}
PLINTH_SIMD void input_gradient(BFloat16* dx, const BFloat16* dy, const BFloat16* x,
                                const float* weight, float rstd, int64_t n) {
    dx_row(dx, dy, x, weight, rstd, n);
}
PLINTH_SIMD void add_weight_gradient(float* dweight, const float* dy, const float* x, float rstd,
                                     int64_t n) {
    add_dweight_row(dweight, dy, x, rstd, n);
}
PLINTH_SIMD void add_weight_gradient(float* dweight, const BFloat16* dy, const BFloat16* x,
                                     float rstd, int64_t n) {
    add_dweight_row(dweight, dy, x, rstd, n);
}

template <typename T>
void backward(View dx, View dweight, ConstView dy, ConstView dsum, ConstView x, ConstView weight,
              ConstView rstd, Stream& stream) {
    const int64_t rows = x.shape.rows(), n = x.dim(-1);
    const int64_t blocks = (rows + rows_per_block - 1) / rows_per_block;
    std::vector<float> partial(dweight ? static_cast<size_t>(blocks * n) : 0, 0.0f);
    parallel_for(stream, rows, rows_per_block, [&](int64_t begin, int64_t end) {
        // In the cache, between the norm's gradient and the sum: two loops that the compiler turns
        // into vectors, which it does not do with one that rounds twice.
        std::vector<T> normed(dx && dsum ? static_cast<size_t>(n) : 0);
        for (int64_t r = begin; r < end; ++r) {
            const T *dy_row = dy.as<T>() + r * n, *x_row = x.as<T>() + r * n;
            const float scale = rstd.as<float>()[r];
            if (dweight)
                add_weight_gradient(partial.data() + begin / rows_per_block * n, dy_row, x_row,
                                    scale, n);
            if (!dx) continue;
            T* dx_row = dsum ? normed.data() : dx.as<T>() + r * n;
            input_gradient(dx_row, dy_row, x_row, weight.as<float>(), scale, n);
            if (dsum) add_range(dx.as<T>() + r * n, dsum.as<T>() + r * n, dx_row, n);
        }
    });
    if (!dweight) return;
    float* total = dweight.as<float>();
    for (int64_t i = 0; i < n; ++i) {
        float sum = 0.0f;
        for (int64_t block = 0; block < blocks; ++block)
            sum += partial[static_cast<size_t>(block * n + i)];
        total[i] = sum;
    }
}

}  // namespace

void rms_norm_forward(View y, View rstd, View sum, ConstView x, ConstView branch, ConstView weight,
                      double eps, Stream& stream) {
    check_same_elements("rms_norm_forward", y, x);
    check_sum("rms_norm_forward", sum, x, branch);
    const int64_t n = x.dim(-1);
    CHECK(weight.elements() == n && rstd.elements() == x.shape.rows(),
          "rms_norm_forward: {} with weight {}", x.shape.text(), weight.shape.text());
    with_float_type(x.dtype, "rms_norm_forward", [&]<typename T>(T) {
        parallel_for(stream, x.shape.rows(), rows_per_block, [&](int64_t begin, int64_t end) {
            for (int64_t r = begin; r < end; ++r) {
                const T* row = x.as<T>() + r * n;
                if (branch) {
                    add_range(sum.as<T>() + r * n, row, branch.as<T>() + r * n, n);
                    row = sum.as<T>() + r * n;
                }
                rstd.as<float>()[r] = forward(y.as<T>() + r * n, row, weight.as<float>(), eps, n);
            }
        });
    });
}

void rms_norm_backward(View dx, View dweight, ConstView dy, ConstView dsum, ConstView x,
                       ConstView weight, ConstView rstd, Stream& stream) {
    check_same_elements("rms_norm_backward", dy, x);
    check_dsum("rms_norm_backward", dsum, x);
    with_float_type(x.dtype, "rms_norm_backward", [&]<typename T>(T) {
        backward<T>(dx, dweight, dy, dsum, x, weight, rstd, stream);
    });
}

}  // namespace plinth::kernels::cpu
