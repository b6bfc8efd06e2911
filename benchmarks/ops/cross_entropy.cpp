// SPDX-License-Identifier: Apache-2.0
#include "kernels/cross_entropy.h"

#include "benchmarks/ops/rows.h"

namespace plinth::test {
namespace {

/// Forward and backward over 1,024 tokens of GPT-2's vocabulary.
void cross_entropy(benchmark::State& state) {
    const auto dtype = static_cast<DType>(state.range(0));
    const int64_t rows = 1024, columns = 50257;
    Stream stream(2);
    Buffer logits({rows, columns}, dtype), largest({rows}, DType::f32), sum({rows}, DType::f32),
        target({rows}, DType::f32), log_sum({rows}, DType::f32), targets({rows}, DType::i32),
        loss({1}, DType::f64), entropy({1}, DType::f64), weight({1}, DType::i64),
        correct({1}, DType::i64), dloss({1}, DType::f32);
    const kernels::CrossEntropy options{.valid_columns = columns};
    for (auto _ : state) {
        kernels::cross_entropy_local(largest.view(), sum.view(), target.view(), logits.view(),
                                     targets.view(), options, stream);
        kernels::cross_entropy_finish(loss.view(), entropy.view(), weight.view(), correct.view(),
                                      log_sum.view(), largest.view(), sum.view(), target.view(),
                                      targets.view(), options, stream);
        kernels::cross_entropy_backward(logits.view(), dloss.view(), log_sum.view(), targets.view(),
                                        options, stream);
    }
    // Two reads, of which the second comes from the cache, and a write: counted as three.
    state.counters["bytes"] = benchmark::Counter(
        3.0 * static_cast<double>(rows * columns) * static_cast<double>(size_of(dtype)),
        benchmark::Counter::kIsIterationInvariantRate);
}
BENCHMARK(cross_entropy)
    ->Arg(static_cast<int>(DType::f32))
    ->Arg(static_cast<int>(DType::bf16))
    ->UseRealTime();

}  // namespace
}  // namespace plinth::test
