// SPDX-License-Identifier: Apache-2.0
#include "kernels/step_decision.h"

#include "benchmarks/ops/rows.h"

namespace plinth::test {
namespace {

/// Once a step: a time, not a rate.
void decide_step(benchmark::State& state) {
    const kernels::StepWords places{.slots = 64};
    Stream stream(1);
    Buffer outcome({kernels::StepWord::count}, DType::f64),
        terms({2, kernels::adamw_words}, DType::f32), words({places.count()}, DType::i64);
    for (auto _ : state)
        kernels::decide_step(outcome.view(), terms.view(), words.view(), places, {}, {}, stream);
}
BENCHMARK(decide_step)->UseRealTime();

}  // namespace
}  // namespace plinth::test
