// SPDX-License-Identifier: Apache-2.0
#include "kernels/attention.h"

#include <benchmark/benchmark.h>

#include "tests/support/cases/attention.h"

namespace plinth::test {
namespace {

/// Backward counts five products for the two of forward.
void run_attention(benchmark::State& state, const AttentionCase& c, bool backward, DType dtype,
                   int threads) {
    Stream stream(threads);
    const auto filled = [&](int64_t n) {
        return std::vector<float>(static_cast<size_t>(n), 0.01f);
    };
    std::vector<float> x = filled(c.batch * c.tokens * c.columns()), dx = x;
    std::vector<float> y = filled(c.batch * c.tokens * c.heads * c.width), dy = y;
    std::vector<float> sums = filled(c.batch * c.heads * c.tokens);
    const Shape packed{c.batch, c.tokens, c.columns()}, rows{c.batch, c.tokens, c.heads * c.width};
    const View qkv(x.data(), dtype, packed), dqkv(dx.data(), dtype, packed),
        vy(y.data(), dtype, rows), vdy(dy.data(), dtype, rows),
        log_sum(sums.data(), DType::f32, {c.batch, c.heads, c.tokens});
    const kernels::Attention options{.heads = c.heads, .kv_heads = c.kv_heads, .causal = c.causal};
    for (auto _ : state) {
        if (backward)
            kernels::attention_backward(dqkv, vdy, vy, log_sum, qkv, {}, options, stream);
        else
            kernels::attention_forward(vy, log_sum, qkv, {}, options, stream);
    }
    state.counters["flops"] = benchmark::Counter(c.flops() * (backward ? 2.5 : 1.0),
                                                 benchmark::Counter::kIsIterationInvariantRate);
}

const int registered = [] {
    for (const AttentionCase& c : attention_benchmark_cases)
        for (bool backward : {false, true})
            for (DType dtype : {DType::f32, DType::bf16})
                for (int threads : {1, 2})
                    benchmark::RegisterBenchmark(
                        fmt::format("attention/{}/{}/{}/threads:{}", c.name,
                                    backward ? "backward" : "forward", name_of(dtype), threads)
                            .c_str(),
                        [=, &c](benchmark::State& state) {
                            run_attention(state, c, backward, dtype, threads);
                        })
                        ->UseRealTime();
    return 0;
}();

}  // namespace
}  // namespace plinth::test
