// SPDX-License-Identifier: Apache-2.0
#include "kernels/rotary.h"

#include <benchmark/benchmark.h>

#include "tests/support/cases/heads.h"

namespace plinth::test {
namespace {

void run_rotary(benchmark::State& state, const HeadsCase& c, DType dtype) {
    Stream stream(1);
    std::vector<float> x(static_cast<size_t>(c.elements()), 0.5f), y = x;
    const Shape shape{c.batch, c.tokens, c.columns()};
    const View in(x.data(), dtype, shape), out(y.data(), dtype, shape);
    std::vector<int32_t> positions(static_cast<size_t>(c.batch * c.tokens));
    for (size_t i = 0; i < positions.size(); ++i)
        positions[i] = static_cast<int32_t>(i);
    const View at(positions.data(), DType::i32, {c.batch, c.tokens});
    for (auto _ : state)
        kernels::rotary(out, in, at, {.heads = c.heads, .kv_heads = c.kv_heads}, false, stream);
    state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(2 * in.bytes()));
}

const int registered = [] {
    for (const HeadsCase& c : heads_benchmark_cases)
        for (DType dtype : {DType::f32, DType::bf16})
            benchmark::RegisterBenchmark(
                fmt::format("rotary/{}/{}", c.name, name_of(dtype)).c_str(),
                [=, &c](benchmark::State& state) { run_rotary(state, c, dtype); })
                ->UseRealTime();
    return 0;
}();

}  // namespace
}  // namespace plinth::test
