// SPDX-License-Identifier: Apache-2.0
#include "kernels/step_decision.h"

#include "benchmarks/ops/rows.h"

namespace plinth::test {
namespace {

/// Once a step: a time, not a rate.
void decide_step(benchmark::State& state) {
    const int64_t slots = 64;
    Stream stream(1);
    Buffer outcome({kernels::StepWord::count}, DType::f64),
        terms({2, kernels::adamw_words}, DType::f32), losses({slots, 2}, DType::f64),
        weights({slots}, DType::i64), squares({kernels::ExactSum::limb_count + 1}, DType::i64);
    for (auto _ : state)
        kernels::decide_step(outcome.view(), terms.view(), losses.view(), weights.view(),
                             squares.view(), {}, stream);
}
BENCHMARK(decide_step)->UseRealTime();

}  // namespace
}  // namespace plinth::test
