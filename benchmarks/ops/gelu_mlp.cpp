// SPDX-License-Identifier: Apache-2.0
#include "kernels/gelu_mlp.h"

#include <benchmark/benchmark.h>

#include "tests/support/cases/matmul.h"

namespace plinth::test {
namespace {

void run_gelu_mlp(benchmark::State& state, const MatmulCase& c, bool backward, DType dtype) {
    Stream stream(2);
    const auto zeros = [&](int64_t n) { return std::vector<float>(static_cast<size_t>(n), 0.0f); };
    std::vector<float> x = zeros(c.rows * c.inputs), w = zeros(c.outputs * c.inputs),
                       pre = zeros(c.rows * c.outputs), h = zeros(c.rows * c.outputs);
    const View vx(x.data(), dtype, {c.rows, c.inputs}), up(w.data(), dtype, {c.outputs, c.inputs}),
        down(w.data(), dtype, {c.inputs, c.outputs}), vpre(pre.data(), dtype, {c.rows, c.outputs}),
        vh(h.data(), dtype, {c.rows, c.outputs});
    for (auto _ : state) {
        if (backward)
            kernels::matmul_gelu_backward(vh, vx, down, vpre, kernels::Gelu::tanh, {}, stream);
        else
            kernels::matmul_gelu(vh, vpre, vx, up, {}, kernels::Gelu::tanh, {.transpose_b = true},
                                 stream);
    }
    state.counters["flops"] =
        benchmark::Counter(c.flops(), benchmark::Counter::kIsIterationInvariantRate);
}

const int registered = [] {
    for (const MatmulCase& c : matmul_benchmark_cases)
        for (const bool backward : {false, true})
            for (const DType dtype : {DType::f32, DType::bf16})
                if (std::string_view(c.name).ends_with("fc"))
                    benchmark::RegisterBenchmark(
                        fmt::format("gelu_mlp/{}/{}/{}", c.name, backward ? "backward" : "forward",
                                    name_of(dtype))
                            .c_str(),
                        [=, &c](benchmark::State& state) {
                            run_gelu_mlp(state, c, backward, dtype);
                        })
                        ->UseRealTime();
    return 0;
}();

}  // namespace
}  // namespace plinth::test
