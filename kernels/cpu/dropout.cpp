// SPDX-License-Identifier: Apache-2.0
#include "kernels/dropout.h"

#include "kernels/cpu/elementwise.h"
#include "kernels/cpu/philox_block.h"

namespace plinth::kernels::cpu {

namespace {

/// Elements whose words are drawn at once, into a small array that the second loop turns into
/// factors.
constexpr int64_t quadruples = PhiloxBlock::quadruples;

struct Draw {
    RandomKey key;
    uint64_t sample;
    ElementNumbers numbers;
    uint32_t threshold;  ///< an element is lost if its word is below
    float factor;        ///< of those that stay
};

PLINTH_SIMD void draw_factors(float* factors, const Draw& draw, uint64_t first_quadruple) {
    PhiloxBlock block;
    draw_words(block, draw.key, first_quadruple, draw.sample);
    for (int64_t q = 0; q < quadruples; ++q)
        for (int64_t j = 0; j < 4; ++j)
            factors[4 * q + j] = block.word[j][q] < draw.threshold ? 0.0f : draw.factor;
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
    const RandomKey key = options.key.get();
    with_float_type(x.dtype, "dropout", [&]<typename T>(T) {
        stream.pool().run(batch * chunks, [&](int64_t index) {
            const int64_t b = index / chunks, begin = index % chunks * elementwise_grain;
            const Draw draw{key, static_cast<uint64_t>(samples.as<int64_t>()[b]), options.numbers,
                            threshold, 1.0f / (1.0f - options.probability)};
            drop(y.as<T>() + b * n, residual ? residual.as<T>() + b * n : nullptr,
                 x.as<T>() + b * n, draw, begin, std::min(n, begin + elementwise_grain));
        });
    });
}

}  // namespace plinth::kernels::cpu
