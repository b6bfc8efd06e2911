// SPDX-License-Identifier: Apache-2.0
// The machine's bandwidth as the other benchmarks see it: a[i] = b[i] + s c[i] over fp32, cut for
// the threads like an elementwise kernel.
#include "benchmarks/ops/bandwidth.h"
#include "kernels/cpu/elementwise.h"

namespace plinth::test {
namespace {

void triad(float* a, const float* b, const float* c, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i)
        a[i] = b[i] + 3.0f * c[i];
}

void add_triad(int64_t elements) {
    register_bandwidth(fmt::format("triad/{}", elements), [=](double& bytes) {
        bytes = 12.0 * static_cast<double>(elements);
        auto data = std::make_shared<std::vector<float>>(static_cast<size_t>(3 * elements), 0.0f);
        return [=](Stream& stream) {
            float* a = data->data();
            parallel_for(
                stream, elements, kernels::cpu::elementwise_grain, [&](int64_t begin, int64_t end) {
                    triad(a + begin, a + elements + begin, a + 2 * elements + begin, end - begin);
                });
        };
    });
}

const int registered = [] {
    for (int64_t elements : {4096 * 768, 4096 * 3072, 38'000'000})
        add_triad(elements);
    return 0;
}();

}  // namespace
}  // namespace plinth::test
