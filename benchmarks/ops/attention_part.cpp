// SPDX-License-Identifier: Apache-2.0
#include "kernels/attention_part.h"

#include <benchmark/benchmark.h>

#include "tests/support/cases/attention.h"

namespace plinth::test {
namespace {

/// One step of a ring of two ranks: half of the queries over the other half of the keys, all of
/// which they see.
void run_part(benchmark::State& state, const AttentionCase& c, bool backward, DType dtype,
              int threads) {
    Stream stream(threads);
    const int64_t half = c.tokens / 2, width = c.heads * c.width, kv_width = c.kv_heads * c.width;
    const auto filled = [&](int64_t n) {
        return std::vector<float>(static_cast<size_t>(n), 0.01f);
    };
    std::vector<float> q = filled(c.batch * half * width), y = q, dy = q, dq = q;
    std::vector<float> k = filled(c.batch * half * kv_width), v = k, dk = k, dv = k;
    std::vector<float> sums = filled(c.batch * c.heads * half);
    const Shape queries{c.batch, half, width}, keys{c.batch, half, kv_width};
    const View q_rows(q.data(), dtype, queries), k_rows(k.data(), dtype, keys),
        v_rows(v.data(), dtype, keys), log_sum(sums.data(), DType::f32, {c.batch, c.heads, half});
    const kernels::AttentionPart part{.first_query = half, .first_key = 0, .tokens = c.tokens};
    const kernels::Attention options{.heads = c.heads, .kv_heads = c.kv_heads, .causal = c.causal};
    for (auto _ : state) {
        if (backward)
            kernels::attention_part_backward(
                View(dq.data(), DType::f32, queries), View(dk.data(), DType::f32, keys),
                View(dv.data(), DType::f32, keys), View(dy.data(), dtype, queries),
                View(y.data(), dtype, queries), log_sum, q_rows, k_rows, v_rows, {}, part, options,
                stream);
        else
            kernels::attention_part_forward(View(y.data(), DType::f32, queries), log_sum, q_rows,
                                            k_rows, v_rows, {}, part, options, stream);
    }
    const double flops = 4.0 * static_cast<double>(c.batch * half * half * width);
    state.counters["flops"] = benchmark::Counter(flops * (backward ? 2.5 : 1.0),
                                                 benchmark::Counter::kIsIterationInvariantRate);
}

const int registered = [] {
    for (const AttentionCase& c : attention_benchmark_cases)
        for (const bool backward : {false, true})
            for (const DType dtype : {DType::f32, DType::bf16})
                for (const int threads : {1, 2})
                    benchmark::RegisterBenchmark(
                        fmt::format("attention_part/{}/{}/{}/threads:{}", c.name,
                                    backward ? "backward" : "forward", name_of(dtype), threads)
                            .c_str(),
                        [=, &c](benchmark::State& state) {
                            run_part(state, c, backward, dtype, threads);
                        })
                        ->UseRealTime();
    return 0;
}();

}  // namespace
}  // namespace plinth::test
