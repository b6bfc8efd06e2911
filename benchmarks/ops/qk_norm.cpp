// SPDX-License-Identifier: Apache-2.0
#include "kernels/qk_norm.h"

#include <benchmark/benchmark.h>

#include "tests/support/cases/heads.h"

namespace plinth::test {
namespace {

void run_qk_norm(benchmark::State& state, const HeadsCase& c, DType dtype) {
    Stream stream(1);
    std::vector<float> x(static_cast<size_t>(c.elements()), 0.5f), y = x;
    const Shape shape{c.batch, c.tokens, c.columns()};
    const View in(x.data(), dtype, shape), out(y.data(), dtype, shape);
    std::vector<float> weights(static_cast<size_t>(c.width), 1.0f);
    std::vector<float> scales(static_cast<size_t>(c.batch * c.tokens * (c.heads + c.kv_heads)));
    const View weight(weights.data(), DType::f32, {c.width});
    const View rstd(scales.data(), DType::f32, {c.batch, c.tokens, c.heads + c.kv_heads});
    for (auto _ : state)
        kernels::qk_norm_forward(out, rstd, in, weight, weight,
                                 {.heads = c.heads, .kv_heads = c.kv_heads}, stream);
    state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(2 * in.bytes()));
}

const int registered = [] {
    for (const HeadsCase& c : heads_benchmark_cases)
        for (DType dtype : {DType::f32, DType::bf16})
            benchmark::RegisterBenchmark(
                fmt::format("qk_norm/{}/{}", c.name, name_of(dtype)).c_str(),
                [=, &c](benchmark::State& state) { run_qk_norm(state, c, dtype); })
                ->UseRealTime();
    return 0;
}();

}  // namespace
}  // namespace plinth::test
