// SPDX-License-Identifier: Apache-2.0
#include "kernels/adamw.h"

#include "benchmarks/ops/rows.h"

namespace plinth::test {
namespace {

void adamw_step(benchmark::State& state, DType moments) {
    const int64_t n = 38597376;  // GPT-2's token table
    Stream stream(2);
    Buffer w({n}, DType::f32), m({n}, moments), v({n}, moments), g({n}, DType::f32);
    for (auto _ : state)
        kernels::adamw(w.view(), m.view(), v.view(), g.view(), {.learning_rate = 1e-3}, stream);
    const auto moved = static_cast<double>(3 * 4 + 4 * size_of(moments));  // of an element
    state.counters["bytes"] = benchmark::Counter(moved * static_cast<double>(n),
                                                 benchmark::Counter::kIsIterationInvariantRate);
}
BENCHMARK_CAPTURE(adamw_step, fp32, DType::f32)->UseRealTime();
BENCHMARK_CAPTURE(adamw_step, bf16_moments, DType::bf16)->UseRealTime();

}  // namespace
}  // namespace plinth::test
