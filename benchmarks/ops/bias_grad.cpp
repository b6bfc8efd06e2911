// SPDX-License-Identifier: Apache-2.0
#include "kernels/bias_grad.h"

#include "benchmarks/ops/rows.h"
#include "tests/support/cases/matmul.h"

namespace plinth::test {
namespace {

void run(benchmark::State& state, const MatmulCase& c, bool behind_gelu, DType dtype) {
    Stream stream(2);
    const Shape in{c.rows, c.inputs}, out{c.rows, c.outputs};
    Buffer x(in, dtype), y(out, dtype), pre(out, dtype), weight({c.inputs, c.outputs}, dtype),
        dweight({c.outputs, c.inputs}, DType::f32), dbias({c.outputs}, DType::f32);
    for (auto _ : state) {
        if (behind_gelu)
            kernels::gelu_linear_grads(y.view(), dbias.view(), x.view(), weight.view(), pre.view(),
                                       stream);
        else
            kernels::linear_grads(dweight.view(), dbias.view(), y.view(), x.view(), stream);
    }
    state.counters["flops"] =
        benchmark::Counter(c.flops(), benchmark::Counter::kIsIterationInvariantRate);
}

const int registered = [] {
    for (const MatmulCase& c : matmul_benchmark_cases)
        for (const bool behind_gelu : {false, true})
            for (const DType dtype : {DType::f32, DType::bf16})
                if (std::string_view(c.name).ends_with("fc"))
                    benchmark::RegisterBenchmark(
                        fmt::format("bias_grad/{}/{}/{}", c.name,
                                    behind_gelu ? "behind gelu" : "linear", name_of(dtype))
                            .c_str(),
                        [=, &c](benchmark::State& state) { run(state, c, behind_gelu, dtype); })
                        ->UseRealTime();
    return 0;
}();

}  // namespace
}  // namespace plinth::test
