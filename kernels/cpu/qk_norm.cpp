// SPDX-License-Identifier: Apache-2.0
#include "kernels/qk_norm.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/cpu/elementwise.h"
#include "kernels/simd.h"

namespace plinth::kernels::cpu {

namespace {

constexpr int64_t tokens_per_block = 64;

/// One token's query heads lie before its key heads; together they are `normed` heads.
struct Extents {
    int64_t tokens, columns, width, heads, normed;

    Extents(ConstView qkv, ConstView rstd, const QkNorm& options)
        : tokens(qkv.shape.rows()),
          columns(qkv.dim(-1)),
          width(columns / std::max<int64_t>(1, options.heads + 2 * options.kv_heads)),
          heads(options.heads),
          normed(options.heads + options.kv_heads) {
        CHECK(width > 0 && width * (normed + options.kv_heads) == columns &&
                  rstd.elements() == tokens * normed,
              "qk_norm: qkv {} and rstd {} do not fit {} query and {} key/value heads",
              qkv.shape.text(), rstd.shape.text(), options.heads, options.kv_heads);
    }
    bool fits(ConstView weight) const { return weight.elements() == width; }
};

template <typename T>
PLINTH_INLINE void norm_head(T* y, float* rstd, const T* x, const float* weight, float eps,
                             int64_t n) {
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; ++i)
        sum += static_cast<float>(x[i]) * static_cast<float>(x[i]);
    const float scale = 1.0f / std::sqrt(sum / static_cast<float>(n) + eps);
    *rstd = scale;
    for (int64_t i = 0; i < n; ++i)
        y[i] = T(static_cast<float>(x[i]) * scale * weight[i]);
}

template <typename T>
PLINTH_INLINE void gradient_of_head(T* dx, const T* dy, const T* x, float rstd, const float* weight,
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
PLINTH_INLINE void add_heads(float* dweight, const T* dy, const T* x, const float* rstd,
                             int64_t heads, int64_t n) {
    for (int64_t head = 0; head < heads; ++head)
        for (int64_t i = 0; i < n; ++i)
            dweight[i] += static_cast<float>(dy[head * n + i]) *
                          (static_cast<float>(x[head * n + i]) * rstd[head]);
}

PLINTH_SIMD void forward(float* y, float* rstd, const float* x, const float* weight, float eps,
                         int64_t n) {
    norm_head(y, rstd, x, weight, eps, n);
}
PLINTH_SIMD void forward(BFloat16* y, float* rstd, const BFloat16* x, const float* weight,
                         float eps, int64_t n) {
    norm_head(y, rstd, x, weight, eps, n);
}
PLINTH_SIMD void input_gradient(float* dx, const float* dy, const float* x, float rstd,
                                const float* weight, int64_t n) {
    gradient_of_head(dx, dy, x, rstd, weight, n);
}
PLINTH_SIMD void input_gradient(BFloat16* dx, const BFloat16* dy, const BFloat16* x, float rstd,
                                const float* weight, int64_t n) {
    gradient_of_head(dx, dy, x, rstd, weight, n);
}
PLINTH_SIMD void add_weight_gradient(float* dweight, const float* dy, const float* x,
                                     const float* rstd, int64_t heads, int64_t n) {
    add_heads(dweight, dy, x, rstd, heads, n);
}
PLINTH_SIMD void add_weight_gradient(float* dweight, const BFloat16* dy, const BFloat16* x,
                                     const float* rstd, int64_t heads, int64_t n) {
    add_heads(dweight, dy, x, rstd, heads, n);
}

/// Calls head(offset, head index) for each query and key head of the tokens [begin, end).
template <typename Head>
void for_heads(const Extents& extents, int64_t begin, int64_t end, Head&& head) {
    for (int64_t token = begin; token < end; ++token)
        for (int64_t h = 0; h < extents.normed; ++h)
            head(token * extents.columns + h * extents.width, token * extents.normed + h,
                 h >= extents.heads);
}

/// The value heads of the tokens [begin, end).
template <typename T>
void copy_values(T* to, const T* from, const Extents& extents, int64_t begin, int64_t end) {
    if (to == from) return;
    for (int64_t token = begin; token < end; ++token)
        std::copy(from + token * extents.columns + extents.normed * extents.width,
                  from + (token + 1) * extents.columns,
                  to + token * extents.columns + extents.normed * extents.width);
}

}  // namespace

void qk_norm_forward(View y, View rstd, ConstView qkv, ConstView q_weight, ConstView k_weight,
                     QkNorm options, Stream& stream) {
    check_same_elements("qk_norm_forward", y, qkv);
    const Extents extents(qkv, rstd, options);
    CHECK(extents.fits(q_weight) && extents.fits(k_weight),
          "qk_norm_forward: weights {} and {} for heads of width {}", q_weight.shape.text(),
          k_weight.shape.text(), extents.width);
    const float* weights[] = {q_weight.as<float>(), k_weight.as<float>()};
    with_float_type(qkv.dtype, "qk_norm_forward", [&]<typename T>(T) {
        parallel_for(stream, extents.tokens, tokens_per_block, [&](int64_t begin, int64_t end) {
            for_heads(extents, begin, end, [&](int64_t at, int64_t row, bool is_key) {
                forward(y.as<T>() + at, rstd.as<float>() + row, qkv.as<T>() + at, weights[is_key],
                        static_cast<float>(options.eps), extents.width);
            });
            copy_values(y.as<T>(), qkv.as<T>(), extents, begin, end);
        });
    });
}

void qk_norm_input_grad(View dqkv, ConstView dy, ConstView qkv, ConstView rstd, ConstView q_weight,
                        ConstView k_weight, QkNorm options, Stream& stream) {
    check_same_elements("qk_norm_input_grad", dqkv, qkv);
    check_same_elements("qk_norm_input_grad", dy, qkv);
    const Extents extents(qkv, rstd, options);
    const float* weights[] = {q_weight.as<float>(), k_weight.as<float>()};
    with_float_type(qkv.dtype, "qk_norm_input_grad", [&]<typename T>(T) {
        parallel_for(stream, extents.tokens, tokens_per_block, [&](int64_t begin, int64_t end) {
            for_heads(extents, begin, end, [&](int64_t at, int64_t row, bool is_key) {
                input_gradient(dqkv.as<T>() + at, dy.as<T>() + at, qkv.as<T>() + at,
                               rstd.as<float>()[row], weights[is_key], extents.width);
            });
            copy_values(dqkv.as<T>(), dy.as<T>(), extents, begin, end);
        });
    });
}

void qk_norm_weight_grad(View dweight, ConstView dy, ConstView qkv, ConstView rstd, bool of_keys,
                         QkNorm options, Stream& stream) {
    check_same_elements("qk_norm_weight_grad", dy, qkv);
    const Extents extents(qkv, rstd, options);
    CHECK(extents.fits(dweight), "qk_norm_weight_grad: {} for heads of width {}",
          dweight.shape.text(), extents.width);
    const int64_t n = extents.width, first = of_keys ? extents.heads : 0;
    const int64_t heads = of_keys ? extents.normed - extents.heads : extents.heads;
    const int64_t blocks = (extents.tokens + tokens_per_block - 1) / tokens_per_block;
    std::vector<float> partial(static_cast<size_t>(blocks * n), 0.0f);
    with_float_type(qkv.dtype, "qk_norm_weight_grad", [&]<typename T>(T) {
        parallel_for(stream, extents.tokens, tokens_per_block, [&](int64_t begin, int64_t end) {
            for (int64_t token = begin; token < end; ++token) {
                const int64_t at = token * extents.columns + first * n;
                add_weight_gradient(partial.data() + begin / tokens_per_block * n, dy.as<T>() + at,
                                    qkv.as<T>() + at,
                                    rstd.as<float>() + token * extents.normed + first, heads, n);
            }
        });
    });
    float* total = dweight.as<float>();
    std::fill_n(total, n, 0.0f);
    for (int64_t block = 0; block < blocks; ++block)
        for (int64_t i = 0; i < n; ++i)
            total[i] += partial[static_cast<size_t>(block * n + i)];
}

}  // namespace plinth::kernels::cpu
