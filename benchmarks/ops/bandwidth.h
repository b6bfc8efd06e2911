// SPDX-License-Identifier: Apache-2.0
// Benchmarks of memory-bound kernels: bytes that must move, per second. Compare with `triad` of the
// same run.
#pragma once

#include <benchmark/benchmark.h>

#include <functional>
#include <memory>
#include <string>

#include "benchmarks/ops/rows.h"
#include "kernels/runtime/stream.h"

namespace plinth::test {

/// GPT-2 124M with 4,096 tokens; logits of 1,024.
inline const RowsCase gpt2_width = {"4096x768", 4096, 768};
inline const RowsCase gpt2_ffn = {"4096x3072", 4096, 3072};
inline const RowsCase gpt2_logits = {"1024x50257", 1024, 50257};

inline double size_in_bytes(Buffer& buffer) {
    return static_cast<double>(buffer.view().bytes());
}

/// Makes the buffers once a run and returns what is timed; sets `bytes` to what one call must move.
using BandwidthSetup = std::function<std::function<void(Stream&)>(double& bytes)>;

inline void register_bandwidth(const std::string& name, BandwidthSetup setup) {
    for (int threads : {1, 2})
        benchmark::RegisterBenchmark((name + "/threads:" + std::to_string(threads)).c_str(),
                                     [=](benchmark::State& state) {
                                         Stream stream(threads);
                                         double bytes = 0.0;
                                         const auto call = setup(bytes);
                                         for (auto _ : state)
                                             call(stream);
                                         state.counters["bytes"] = benchmark::Counter(
                                             bytes, benchmark::Counter::kIsIterationInvariantRate);
                                     })
            ->UseRealTime();
}

}  // namespace plinth::test
