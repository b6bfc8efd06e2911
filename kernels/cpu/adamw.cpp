// SPDX-License-Identifier: Apache-2.0
#include "kernels/adamw.h"

#include <algorithm>
#include <span>

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

/// Elements [begin, end) of a part.
void update_rounded_part(const AdamWPart& part, const AdamWConstants& constants, int64_t begin,
                         int64_t end) {
    float* w = part.weight.as<float>();
    auto *m = part.first_moment.as<BFloat16>(), *v = part.second_moment.as<BFloat16>();
    const float* gradient = part.gradient.as<float>();
    constexpr int64_t drawn = 4 * PhiloxBlock::quadruples;
    uint32_t words[drawn];
    const RandomKey key = part.rounding.get();
    for (int64_t i = begin; i < end;) {
        // A row of the parameter, or this part of it, may begin inside of a quadruple.
        const int64_t number = part.elements[i], before = number % 4;
        draw_in_order(words, key, static_cast<uint64_t>(number / 4));
        const int64_t last = std::min({end, part.elements.row_end(i), i + drawn - before});
        update_rounded(w + i, m + i, v + i, gradient + i, words + before, constants, last - i);
        i = last;
    }
}

void update_part(const AdamWPart& part, const AdamWConstants& constants, int64_t begin,
                 int64_t end) {
    if (part.first_moment.dtype == DType::bf16)
        return update_rounded_part(part, constants, begin, end);
    update(part.weight.as<float>() + begin, part.first_moment.as<float>() + begin,
           part.second_moment.as<float>() + begin, part.gradient.as<float>() + begin, constants,
           end - begin);
}

void check(std::span<const AdamWPart> parts) {
    for (const AdamWPart& part : parts) {
        check_same_elements("adamw", part.weight, part.gradient);
        check_same_elements("adamw", part.weight, part.first_moment);
        check_same_elements("adamw", part.weight, part.second_moment);
        CHECK(part.elements.is_sound(), "adamw: from element {} on", part.elements.first);
        CHECK(part.first_moment.dtype == parts[0].first_moment.dtype &&
                  part.second_moment.dtype == parts[0].first_moment.dtype,
              "adamw: moments in {} and in {}", name_of(parts[0].first_moment.dtype),
              name_of(part.second_moment.dtype));
    }
}

/// Chunks of all parts, so that the threads share those of small ones, too.
void update_all(std::span<const AdamWPart> parts, const AdamWConstants& decaying,
                const AdamWConstants& others, Stream& stream) {
    std::vector<int64_t> first_chunk{0};
    for (const AdamWPart& part : parts)
        first_chunk.push_back(first_chunk.back() +
                              (part.weight.elements() + elementwise_grain - 1) / elementwise_grain);
    stream.pool().run(first_chunk.back(), [&](int64_t chunk) {
        const auto next = std::upper_bound(first_chunk.begin(), first_chunk.end(), chunk);
        const AdamWPart& part = parts[static_cast<size_t>(next - first_chunk.begin() - 1)];
        const int64_t begin = (chunk - *(next - 1)) * elementwise_grain;
        update_part(part, part.decays ? decaying : others, begin,
                    std::min(part.weight.elements(), begin + elementwise_grain));
    });
}

}  // namespace

void adamw(View weight, View first_moment, View second_moment, ConstView gradient, AdamW options,
           Stream& stream) {
    adamw_parts(
        {{weight, first_moment, second_moment, gradient, true, options.rounding, options.elements}},
        options, stream);
}

void adamw_parts(std::vector<AdamWPart> parts, AdamW options, Stream& stream) {
    check(parts);
    if (options.skip) return;
    update_all(parts, AdamWConstants(options), AdamWConstants(without_decay(options)), stream);
}

void adamw_decided(std::vector<AdamWPart> parts, ConstView terms, Stream& stream) {
    check(parts);
    CHECK(terms.elements() == 2 * adamw_words && terms.is_contiguous(), "adamw: terms of shape {}",
          terms.shape.text());
    const float* words = terms.as<float>();
    if (words[AdamWConstants::words] == 0.0f) return;
    update_all(parts, AdamWConstants(words), AdamWConstants(words + adamw_words), stream);
}

}  // namespace plinth::kernels::cpu
