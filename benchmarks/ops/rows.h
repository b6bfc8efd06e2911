// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <vector>

#include "kernels/view.h"
#include "tests/support/cases/rows.h"

namespace plinth::test {

/// Zeroed memory for a benchmark's tensors.
class Buffer {
  public:
    Buffer(const Shape& shape, DType dtype)
        : bytes_(static_cast<size_t>(shape.elements()) * size_of(dtype)),
          shape_(shape),
          dtype_(dtype) {}
    View view() { return {bytes_.data(), dtype_, shape_}; }

  private:
    std::vector<std::byte> bytes_;
    Shape shape_;
    DType dtype_;
};

/// Registers body(state, case, dtype) as NAME/CASE/DTYPE for every benchmark shape and both dtypes.
/// `tensors_moved` counts how often each element of the case is read or written: it gives the rate
/// printed.
template <typename Body>
int register_rows(const char* name, double tensors_moved, Body body) {
    for (const RowsCase& c : rows_benchmark_cases)
        for (DType dtype : {DType::f32, DType::bf16})
            benchmark::RegisterBenchmark(
                fmt::format("{}/{}/{}", name, c.name, name_of(dtype)).c_str(),
                [=, &c](benchmark::State& state) {
                    body(state, c, dtype);
                    state.counters["bytes"] = benchmark::Counter(
                        tensors_moved * c.elements() * static_cast<double>(size_of(dtype)),
                        benchmark::Counter::kIsIterationInvariantRate);
                })
                ->UseRealTime();
    return 0;
}

}  // namespace plinth::test
