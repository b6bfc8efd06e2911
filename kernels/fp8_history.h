// SPDX-License-Identifier: Apache-2.0
// The largest magnitudes of the 8-bit tensors of a model in its last optimizer steps, in the memory
// of the device that computes. N tensors: of each weight its input, itself, and the gradient of its
// output, in this order. Once a step each.
#pragma once

#include <bit>
#include <cstdint>

#include "kernels/fp8.h"
#include "kernels/kernel.h"
#include "kernels/step_decision.h"

namespace plinth::kernels {

constexpr int64_t fp8_history_steps = 16;  ///< rows of a history, each overwritten in turn

/// Of the tensor with that number.
PLINTH_HOST_DEVICE PLINTH_INLINE constexpr Fp8 fp8_history_format(int64_t tensor) {
    return tensor % 3 == 2 ? Fp8::e5m2 : Fp8::e4m3;
}

/// What a history says of one tensor.
struct Fp8Known {
    float scale = 0.0f;  ///< of its largest magnitude; 0 where nothing but zeros is known
    /// More steps after which still something but zeros is known, whatever they bring; -1 if not
    /// even now.
    int32_t lasts = -1;
};
PLINTH_HOST_DEVICE PLINTH_INLINE Fp8Known fp8_known(const float* history, int64_t count,
                                                    int64_t tensors, int64_t tensor) {
    const int64_t rows = count < fp8_history_steps ? count : fp8_history_steps;
    Fp8Known known;
    float most = 0.0f;
    for (int64_t age = 0; age < rows; ++age) {
        const float seen = history[(count - 1 - age) % fp8_history_steps * tensors + tensor];
        if (!(seen > 0.0f)) continue;
        if (known.lasts < 0) known.lasts = static_cast<int32_t>(fp8_history_steps - 1 - age);
        if (seen > most) most = seen;
    }
    if (most > 0.0f)
        known.scale = fp8_scale_for(std::bit_cast<uint32_t>(most), fp8_history_format(tensor));
    return known;
}

/// scales f32 [N]: see Fp8Known; lasts i64 [1]: the least of all tensors. history f32
/// [fp8_history_steps, N] holds magnitudes, row `count` % fp8_history_steps is the next one that is
/// written; count i64 [1].
PLINTH_KERNEL(fp8_history_scales, View scales, View lasts, ConstView history, ConstView count);

/// words i64 [N + 1] = the bits of largest f32 [N], magnitudes of one step, and the largest of
/// these: as integers magnitudes have the same order, infinity and NaN above all. So the maxima of
/// the words of several ranks are the words of their maxima.
PLINTH_KERNEL(fp8_history_words, View words, ConstView largest);

/// One more row, of words as above; the oldest is forgotten. Where `outcome` (decide_step's; may be
/// left out) says that the step updates nothing, nothing happens.
PLINTH_KERNEL(fp8_history_push, View history, View count, ConstView words, ConstView outcome);

inline void check_fp8_history(const char* name, const ConstView& history, const ConstView& count,
                              int64_t tensors) {
    CHECK(history.shape == Shape({fp8_history_steps, tensors}) && history.is_contiguous() &&
              history.dtype == DType::f32 && count.elements() == 1 && count.dtype == DType::i64,
          "{}: a history {} of {} tensors", name, history.shape.text(), tensors);
}

inline void check_fp8_history_scales(const View& scales, const View& lasts,
                                     const ConstView& history, const ConstView& count) {
    check_fp8_history("fp8_history_scales", history, count, scales.elements());
    CHECK(lasts.elements() == 1 && lasts.dtype == DType::i64 && scales.dtype == DType::f32,
          "fp8_history_scales: scales in {}", name_of(scales.dtype));
}

inline void check_fp8_history_words(const View& words, const ConstView& largest) {
    CHECK(words.elements() == largest.elements() + 1 && words.dtype == DType::i64 &&
              largest.dtype == DType::f32,
          "fp8_history_words: {} words of {} magnitudes", words.elements(), largest.elements());
}

inline void check_fp8_history_push(const View& history, const View& count, const ConstView& words,
                                   const ConstView& outcome) {
    check_fp8_history("fp8_history_push", history, count, words.elements() - 1);
    CHECK(words.dtype == DType::i64 && (!outcome || outcome.elements() == StepWord::count),
          "fp8_history_push: words in {}, an outcome of {}", name_of(words.dtype),
          outcome.elements());
}

}  // namespace plinth::kernels
