// SPDX-License-Identifier: Apache-2.0
#include "kernels/grad_norm.h"

#include "benchmarks/ops/rows.h"

namespace plinth::test {
namespace {

void squared_block_sums(benchmark::State& state) {
    const int64_t n = 38597376;  // GPT-2's token table
    Stream stream(2);
    Buffer x({n}, DType::f32), sums({n / kernels::norm_block + 1}, DType::f64);
    const View blocks(sums.view().data, DType::f64,
                      {(n + kernels::norm_block - 1) / kernels::norm_block});
    for (auto _ : state)
        kernels::squared_block_sums(blocks, {x.view()}, stream);
    state.counters["bytes"] = benchmark::Counter(4.0 * static_cast<double>(n),
                                                 benchmark::Counter::kIsIterationInvariantRate);
}
BENCHMARK(squared_block_sums)->UseRealTime();

}  // namespace
}  // namespace plinth::test
