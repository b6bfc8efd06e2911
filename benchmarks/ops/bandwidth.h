// SPDX-License-Identifier: Apache-2.0
// Benchmarks of memory-bound kernels: bytes that must move, per second. Compare with `triad` of the
// same run.
#pragma once

#include <benchmark/benchmark.h>

#include <functional>
#include <string>
#include <vector>

#include "kernels/runtime/stream.h"
#include "kernels/view.h"

namespace plinth::test {

/// Zeroed memory that a benchmark's views point into.
class Buffer {
  public:
    Buffer(const Shape& shape, DType dtype)
        : shape_(shape),
          dtype_(dtype),
          bytes_(static_cast<size_t>(shape.elements()) * size_of(dtype)) {}
    View view() { return {bytes_.data(), dtype_, shape_}; }
    double size() const { return static_cast<double>(bytes_.size()); }

  private:
    Shape shape_;
    DType dtype_;
    std::vector<std::byte> bytes_;
};

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
