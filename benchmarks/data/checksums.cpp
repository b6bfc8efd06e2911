// SPDX-License-Identifier: Apache-2.0
// Checksums and hashes over a block that fits the caches, and one that does not.
#include <benchmark/benchmark.h>

#include <vector>

#include "core/io/crc32c.h"
#include "core/io/hash.h"

namespace plinth::core::io {
namespace {

void crc32c_instruction(benchmark::State& state) {
    const std::vector<std::byte> data(static_cast<size_t>(state.range(0)));
    for (auto _ : state)
        benchmark::DoNotOptimize(crc32c(0, data));
    state.SetBytesProcessed(state.iterations() * state.range(0));
}
BENCHMARK(crc32c_instruction)->Arg(1 << 20)->Arg(256 << 20);

void crc32c_tables(benchmark::State& state) {
    const std::vector<std::byte> data(static_cast<size_t>(state.range(0)));
    for (auto _ : state)
        benchmark::DoNotOptimize(crc32c_by_tables(0, data));
    state.SetBytesProcessed(state.iterations() * state.range(0));
}
BENCHMARK(crc32c_tables)->Arg(1 << 20);

void xxh3(benchmark::State& state) {
    const std::vector<std::byte> data(static_cast<size_t>(state.range(0)));
    for (auto _ : state)
        benchmark::DoNotOptimize(xxh3_64(std::span(data)));
    state.SetBytesProcessed(state.iterations() * state.range(0));
}
BENCHMARK(xxh3)->Arg(1 << 20)->Arg(256 << 20);

}  // namespace
}  // namespace plinth::core::io
