// SPDX-License-Identifier: Apache-2.0
#include "kernels/matmul.h"

#include <benchmark/benchmark.h>

#include "tests/support/cases/matmul.h"

namespace plinth::test {
namespace {

enum class Pass { forward, input_grad, weight_grad };

void run_matmul(benchmark::State& state, const MatmulCase& c, Pass pass, DType dtype, int threads) {
    Stream stream(threads);
    const auto zeros = [&](int64_t n) { return std::vector<float>(static_cast<size_t>(n), 0.0f); };
    std::vector<float> x = zeros(c.rows * c.inputs), w = zeros(c.outputs * c.inputs),
                       y = zeros(c.rows * c.outputs);
    const View vx(x.data(), dtype, {c.rows, c.inputs}), vw(w.data(), dtype, {c.outputs, c.inputs}),
        vy(y.data(), dtype, {c.rows, c.outputs});
    const View dw(w.data(), DType::f32, {c.outputs, c.inputs});
    for (auto _ : state) {
        switch (pass) {
            case Pass::forward:
                kernels::matmul(vy, vx, vw, {}, {.transpose_b = true}, stream);
                break;
            case Pass::input_grad:
                kernels::matmul(vx, vy, vw, {}, {}, stream);
                break;
            case Pass::weight_grad:
                kernels::matmul(dw, vy, vx, {}, {.transpose_a = true}, stream);
                break;
        }
    }
    state.counters["flops"] =
        benchmark::Counter(c.flops(), benchmark::Counter::kIsIterationInvariantRate);
}

const int registered = [] {
    const std::pair<Pass, const char*> passes[] = {
        {Pass::forward, "forward"}, {Pass::input_grad, "dx"}, {Pass::weight_grad, "dweight"}};
    for (const MatmulCase& c : matmul_benchmark_cases)
        for (const auto& [pass, pass_name] : passes)
            for (DType dtype : {DType::f32, DType::bf16})
                for (int threads : {1, 2})
                    benchmark::RegisterBenchmark(fmt::format("matmul/{}/{}/{}/threads:{}", c.name,
                                                             pass_name, name_of(dtype), threads)
                                                     .c_str(),
                                                 [=, &c, pass = pass](benchmark::State& state) {
                                                     run_matmul(state, c, pass, dtype, threads);
                                                 })
                        ->UseRealTime();
    return 0;
}();

}  // namespace
}  // namespace plinth::test
