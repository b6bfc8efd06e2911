// SPDX-License-Identifier: Apache-2.0
#include "kernels/adamw.h"

#include "benchmarks/ops/rows.h"

namespace plinth::test {
namespace {

void adamw_step(benchmark::State& state) {
    const int64_t n = 38597376;  // GPT-2's token table
    Stream stream(2);
    Buffer w({n}, DType::f32), m({n}, DType::f32), v({n}, DType::f32), g({n}, DType::f32);
    for (auto _ : state)
        kernels::adamw(w.view(), m.view(), v.view(), g.view(), {.learning_rate = 1e-3}, stream);
    state.counters["bytes"] = benchmark::Counter(7.0 * 4.0 * static_cast<double>(n),
                                                 benchmark::Counter::kIsIterationInvariantRate);
}
BENCHMARK(adamw_step)->UseRealTime();

}  // namespace
}  // namespace plinth::test
