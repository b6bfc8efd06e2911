// SPDX-License-Identifier: Apache-2.0
#include "kernels/kv_cache.h"

#include "benchmarks/ops/rows.h"

namespace plinth::test {
namespace {

/// One token of each of 8 sequences of a GPT-2 layer.
void kv_cache_append(benchmark::State& state) {
    Stream stream(2);
    Buffer k({8, 1024, 768}, DType::f32), v({8, 1024, 768}, DType::f32),
        qkv({8, 1, 2304}, DType::f32);
    Buffer starts({8}, DType::i32);
    for (auto _ : state)
        kernels::kv_cache_append(k.view(), v.view(), qkv.view(), starts.view(), stream);
}
BENCHMARK(kv_cache_append)->UseRealTime();

}  // namespace
}  // namespace plinth::test
