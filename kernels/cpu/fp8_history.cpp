// SPDX-License-Identifier: Apache-2.0
#include "kernels/fp8_history.h"

#include <algorithm>

namespace plinth::kernels::cpu {

void fp8_history_scales(View scales, View lasts, ConstView history, ConstView count, Stream&) {
    check_fp8_history_scales(scales, lasts, history, count);
    const int64_t n = scales.elements();
    int64_t least = fp8_history_steps;
    for (int64_t i = 0; i < n; ++i) {
        const Fp8Known known = fp8_known(history.as<float>(), *count.as<int64_t>(), n, i);
        scales.as<float>()[i] = known.scale;
        least = std::min<int64_t>(least, known.lasts);
    }
    *lasts.as<int64_t>() = least;
}

void fp8_history_words(View words, ConstView largest, Stream&) {
    check_fp8_history_words(words, largest);
    const int64_t n = largest.elements();
    uint32_t most = 0;
    for (int64_t i = 0; i < n; ++i) {
        const auto bits = std::bit_cast<uint32_t>(largest.as<float>()[i]);
        words.as<int64_t>()[i] = bits;
        most = std::max(most, bits);
    }
    words.as<int64_t>()[n] = most;
}

void fp8_history_push(View history, View count, ConstView words, ConstView outcome, Stream&) {
    check_fp8_history_push(history, count, words, outcome);
    if (outcome && outcome.as<double>()[StepWord::updates_here] != 1.0) return;
    const int64_t n = words.elements() - 1, row = (*count.as<int64_t>())++ % fp8_history_steps;
    for (int64_t i = 0; i < n; ++i)
        history.as<float>()[row * n + i] =
            std::bit_cast<float>(static_cast<uint32_t>(words.as<int64_t>()[i]));
}

}  // namespace plinth::kernels::cpu
