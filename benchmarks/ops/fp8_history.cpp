// SPDX-License-Identifier: Apache-2.0
#include "kernels/fp8_history.h"

#include "benchmarks/ops/rows.h"

namespace plinth::test {
namespace {

/// Once a step: a time, not a rate. 48 weights, as 12 layers have them.
void fp8_history(benchmark::State& state) {
    const int64_t n = 144;
    Stream stream(1);
    Buffer scales({n}, DType::f32), largest({n}, DType::f32), lasts({1}, DType::i64),
        words({n + 1}, DType::i64), count({1}, DType::i64),
        history({kernels::fp8_history_steps, n}, DType::f32);
    for (auto _ : state) {
        kernels::fp8_history_scales(scales.view(), lasts.view(), history.view(), count.view(),
                                    stream);
        kernels::fp8_history_words(words.view(), largest.view(), stream);
        kernels::fp8_history_push(history.view(), count.view(), words.view(), {}, stream);
    }
}
BENCHMARK(fp8_history)->UseRealTime();

}  // namespace
}  // namespace plinth::test
