// SPDX-License-Identifier: Apache-2.0
#include "kernels/adamw.h"

#include "kernels/cpu/elementwise.h"
#include "kernels/cpu/philox_block.h"

namespace plinth::kernels::cpu {

namespace {

PLINTH_SIMD void update(float* w, float* m, float* v, const float* gradient,
                        const AdamWConstants& c, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i)
        adamw_update(w[i], m[i], v[i], gradient[i], c);
}

PLINTH_SIMD void update_rounded(float* w, BFloat16* m, BFloat16* v, const float* gradient,
                                const uint32_t* words, const AdamWConstants& c, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i)
        adamw_update(w[i], m[i], v[i], gradient[i], c, words[i]);
}

PLINTH_SIMD void draw_in_order(uint32_t* words, const RandomKey& key, uint64_t first_quadruple) {
    PhiloxBlock block;
    draw_words(block, key, first_quadruple, 0);
    for (int64_t q = 0; q < PhiloxBlock::quadruples; ++q)
        for (int64_t j = 0; j < 4; ++j)
            words[4 * q + j] = block.word[j][q];
}

/// Elements [begin, end) of the call.
void update_part(float* w, BFloat16* m, BFloat16* v, const float* gradient, const AdamW& options,
                 const AdamWConstants& constants, int64_t begin, int64_t end) {
    constexpr int64_t drawn = 4 * PhiloxBlock::quadruples;
    uint32_t words[drawn];
    const RandomKey key = options.rounding.get();
    for (int64_t i = begin; i < end;) {
        // A row of the parameter, or this part of it, may begin inside of a quadruple.
        const int64_t number = options.elements[i], before = number % 4;
        draw_in_order(words, key, static_cast<uint64_t>(number / 4));
        const int64_t last = std::min({end, options.elements.row_end(i), i + drawn - before});
        update_rounded(w + i, m + i, v + i, gradient + i, words + before, constants, last - i);
        i = last;
    }
}

void update_all(View weight, View first_moment, View second_moment, ConstView gradient,
                const AdamWConstants& constants, const AdamW& options, Stream& stream) {
    float* w = weight.as<float>();
    const float* g = gradient.as<float>();
    if (first_moment.dtype == DType::bf16) {
        auto *m = first_moment.as<BFloat16>(), *v = second_moment.as<BFloat16>();
        return parallel_for(stream, weight.elements(), elementwise_grain,
                            [&](int64_t begin, int64_t end) {
                                update_part(w, m, v, g, options, constants, begin, end);
                            });
    }
    float *m = first_moment.as<float>(), *v = second_moment.as<float>();
    parallel_for(stream, weight.elements(), elementwise_grain, [&](int64_t begin, int64_t end) {
        update(w + begin, m + begin, v + begin, g + begin, constants, end - begin);
    });
}

void check(ConstView weight, ConstView first_moment, ConstView second_moment, ConstView gradient,
           const AdamW& options) {
    check_same_elements("adamw", weight, gradient);
    check_same_elements("adamw", weight, first_moment);
    check_same_elements("adamw", weight, second_moment);
    CHECK(options.elements.is_sound(), "adamw: from element {} on", options.elements.first);
}

}  // namespace

void adamw(View weight, View first_moment, View second_moment, ConstView gradient, AdamW options,
           Stream& stream) {
    check(weight, first_moment, second_moment, gradient, options);
    if (options.skip) return;
    update_all(weight, first_moment, second_moment, gradient, AdamWConstants(options), options,
               stream);
}

void adamw_decided(View weight, View first_moment, View second_moment, ConstView gradient,
                   ConstView terms, AdamW options, Stream& stream) {
    check(weight, first_moment, second_moment, gradient, options);
    CHECK(terms.elements() == adamw_words && terms.is_contiguous(), "adamw: terms of shape {}",
          terms.shape.text());
    const float* words = terms.as<float>();
    if (words[AdamWConstants::words] == 0.0f) return;
    update_all(weight, first_moment, second_moment, gradient, AdamWConstants(words), options,
               stream);
}

}  // namespace plinth::kernels::cpu
