// SPDX-License-Identifier: Apache-2.0
#include "kernels/dropout.h"

#include "kernels/cpu/elementwise.h"
#include "kernels/simd.h"

namespace plinth::kernels::cpu {

namespace {

/// Elements whose words are drawn at once, into a small array that the second loop turns into
/// factors.
constexpr int64_t quadruples = 64;

struct Draw {
    RandomKey key;
    uint64_t sample;
    ElementNumbers numbers;
    uint32_t threshold;  ///< an element is lost if its word is below
    float factor;        ///< of those that stay
};

/// The four words of `quadruples` counters, word by word: each loop over them becomes vector
/// instructions, which a loop over whole counters does not.
struct Counters {
    uint32_t word[4][quadruples];
};

/// Those that RandomKey::words makes of an item's quadruples from `first` on.
PLINTH_INLINE void set_counters(Counters& counters, uint64_t first, uint64_t item) {
    for (int64_t q = 0; q < quadruples; ++q) {
        const uint64_t index = first + static_cast<uint64_t>(q);
        counters.word[0][q] = static_cast<uint32_t>(index);
        counters.word[1][q] = static_cast<uint32_t>(index >> 32);
        counters.word[2][q] = static_cast<uint32_t>(item);
        counters.word[3][q] = static_cast<uint32_t>(item >> 32);
    }
}

/// philox() for all of them.
PLINTH_INLINE void draw_words(Counters& counters, uint32_t key0, uint32_t key1) {
    uint32_t *x0 = counters.word[0], *x1 = counters.word[1], *x2 = counters.word[2],
             *x3 = counters.word[3];
    for (int round = 0; round < philox_rounds; ++round) {
#pragma omp simd
        for (int64_t q = 0; q < quadruples; ++q) {
            const uint64_t a = uint64_t{philox_multiplier[0]} * x0[q];
            const uint64_t b = uint64_t{philox_multiplier[1]} * x2[q];
            x0[q] = static_cast<uint32_t>(b >> 32) ^ x1[q] ^ key0;
            x1[q] = static_cast<uint32_t>(b);
            x2[q] = static_cast<uint32_t>(a >> 32) ^ x3[q] ^ key1;
            x3[q] = static_cast<uint32_t>(a);
        }
        key0 += philox_key_step[0];
        key1 += philox_key_step[1];
    }
}

PLINTH_SIMD void draw_factors(float* factors, const Draw& draw, uint64_t first_quadruple) {
    Counters counters;
    set_counters(counters, first_quadruple, draw.sample);
    draw_words(counters, draw.key.key[0], draw.key.key[1]);
    for (int64_t q = 0; q < quadruples; ++q)
        for (int64_t j = 0; j < 4; ++j)
            factors[4 * q + j] = counters.word[j][q] < draw.threshold ? 0.0f : draw.factor;
}

template <typename T>
void drop(T* y, const T* residual, const T* x, const Draw& draw, int64_t begin, int64_t end) {
    float factors[4 * quadruples];
    for (int64_t block = begin; block < end;) {
        // A run of a sample may begin inside of a quadruple.
        const int64_t number = draw.numbers[block], before = number % 4;
        draw_factors(factors, draw, static_cast<uint64_t>(number / 4));
        const float* factor = factors + before;
        const int64_t run_end = block < draw.numbers.turn ? draw.numbers.turn : end;
        const int64_t last = std::min({end, run_end, block + 4 * quadruples - before});
        for (int64_t i = block; i < last; ++i) {
            const float kept = static_cast<float>(x[i]) * factor[i - block];
            y[i] = T(residual ? static_cast<float>(residual[i]) + kept : kept);
        }
        block = last;
    }
}

}  // namespace

void dropout(View y, ConstView residual, ConstView x, ConstView samples, Dropout options,
             Stream& stream) {
    check_same_elements("dropout", y, x);
    if (residual) check_same_elements("dropout", y, residual);
    CHECK(options.probability >= 0.0f && options.probability < 1.0f && options.numbers.is_sound(),
          "dropout of {} from element {} on", options.probability, options.numbers.first);
    CHECK(samples.elements() == x.dim(0), "dropout: {} sample numbers for {}", samples.elements(),
          x.shape.text());
    const int64_t batch = x.dim(0), n = batch > 0 ? x.elements() / batch : 0;
    const int64_t chunks = (n + elementwise_grain - 1) / elementwise_grain;
    const auto threshold = static_cast<uint32_t>(static_cast<double>(options.probability) * 0x1p32);
    with_float_type(x.dtype, "dropout", [&]<typename T>(T) {
        stream.pool().run(batch * chunks, [&](int64_t index) {
            const int64_t b = index / chunks, begin = index % chunks * elementwise_grain;
            const Draw draw{options.key, static_cast<uint64_t>(samples.as<int64_t>()[b]),
                            options.numbers, threshold, 1.0f / (1.0f - options.probability)};
            drop(y.as<T>() + b * n, residual ? residual.as<T>() + b * n : nullptr,
                 x.as<T>() + b * n, draw, begin, std::min(n, begin + elementwise_grain));
        });
    });
}

}  // namespace plinth::kernels::cpu
