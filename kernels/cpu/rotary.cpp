// SPDX-License-Identifier: Apache-2.0
#include "kernels/rotary.h"

#include <algorithm>
#include <cmath>

#include "kernels/cpu/elementwise.h"
#include "kernels/simd.h"

namespace plinth::kernels::cpu {

namespace {

constexpr int64_t tokens_per_chunk = 16;

/// Cosines and sines by row: one row for each position of the batch when the positions are dense
/// (training), else one for each token (a few tokens far along, as in generation).
class AngleTable {
  public:
    AngleTable(ConstView positions, const std::vector<double>& frequencies, bool backward,
               Stream& stream)
        : positions_(positions.as<int32_t>()), half_(static_cast<int64_t>(frequencies.size())) {
        const int64_t tokens = positions.elements();
        const auto [least, most] = std::minmax_element(positions_, positions_ + tokens);
        const int64_t range = static_cast<int64_t>(*most) - *least + 1;
        by_position_ = range <= tokens;
        first_ = *least;
        const int64_t rows = by_position_ ? range : tokens;
        values_.resize(static_cast<size_t>(rows * 2 * half_));
        parallel_for(stream, rows, tokens_per_chunk, [&](int64_t begin, int64_t end) {
            for (int64_t row = begin; row < end; ++row)
                fill(row, static_cast<double>(by_position_ ? first_ + row : positions_[row]),
                     frequencies, backward ? -1.0 : 1.0);
        });
    }
    const float* cosines(int64_t token) const {
        const int64_t row = by_position_ ? positions_[token] - first_ : token;
        return values_.data() + row * 2 * half_;
    }
    const float* sines(int64_t token) const { return cosines(token) + half_; }

  private:
    void fill(int64_t row, double position, const std::vector<double>& frequencies,
              double direction) {
        float* cosine = values_.data() + row * 2 * half_;
        for (int64_t j = 0; j < half_; ++j) {
            const double angle = position * frequencies[static_cast<size_t>(j)];
            cosine[j] = static_cast<float>(std::cos(angle));
            cosine[half_ + j] = static_cast<float>(direction * std::sin(angle));
        }
    }

    const int32_t* positions_;
    int64_t half_, first_;
    bool by_position_;
    std::vector<float> values_;
};

template <typename T>
PLINTH_INLINE void turn_heads(T* y, const T* x, const float* cosine, const float* sine,
                              int64_t heads, int64_t half) {
    for (int64_t head = 0; head < heads; ++head, x += 2 * half, y += 2 * half)
#pragma omp simd  // y is x or apart from it
        for (int64_t j = 0; j < half; ++j) {
            const auto a = static_cast<float>(x[j]), b = static_cast<float>(x[half + j]);
            y[j] = T(a * cosine[j] - b * sine[j]);
            y[half + j] = T(b * cosine[j] + a * sine[j]);
        }
}

PLINTH_SIMD void turn(float* y, const float* x, const float* cosine, const float* sine,
                      int64_t heads, int64_t half) {
    turn_heads(y, x, cosine, sine, heads, half);
}
PLINTH_SIMD void turn(BFloat16* y, const BFloat16* x, const float* cosine, const float* sine,
                      int64_t heads, int64_t half) {
    turn_heads(y, x, cosine, sine, heads, half);
}

}  // namespace

void rotary(View y, ConstView qkv, ConstView positions, Rotary options, bool backward,
            Stream& stream) {
    check_same_elements("rotary", y, qkv);
    const int64_t columns = qkv.dim(-1), all_heads = options.heads + 2 * options.kv_heads;
    const int64_t width = all_heads > 0 ? columns / all_heads : 0, tokens = qkv.shape.rows();
    CHECK(width > 0 && width % 2 == 0 && width * all_heads == columns &&
              positions.elements() == tokens,
          "rotary: qkv {} does not hold {} query and twice {} key/value heads of even width for "
          "positions {}",
          qkv.shape.text(), options.heads, options.kv_heads, positions.shape.text());
    if (tokens == 0) return;
    const AngleTable angles(positions, rotary_frequencies(width, options), backward, stream);
    const int64_t turned = options.heads + options.kv_heads;
    with_float_type(qkv.dtype, "rotary", [&]<typename T>(T) {
        parallel_for(stream, tokens, tokens_per_chunk, [&](int64_t begin, int64_t end) {
            for (int64_t token = begin; token < end; ++token) {
                const T* from = qkv.as<T>() + token * columns;
                T* to = y.as<T>() + token * columns;
                turn(to, from, angles.cosines(token), angles.sines(token), turned, width / 2);
                if (to != from)
                    std::copy(from + turned * width, from + columns, to + turned * width);
            }
        });
    });
}

}  // namespace plinth::kernels::cpu
