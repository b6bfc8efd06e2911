// SPDX-License-Identifier: Apache-2.0
// Save and load of the whole state of GPT-2 124M (master weights and two moments in fp32, 1.49 GB)
// on the disk that holds the temporary folder (TMPDIR). compare_dd.sh sets the rates against dd.
#include <benchmark/benchmark.h>
#include <fcntl.h>
#include <unistd.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "checkpoints/reader.h"
#include "checkpoints/restore.h"
#include "checkpoints/writer.h"
#include "kernels/runtime/error.h"

namespace {

using namespace plinth;
using namespace plinth::checkpoints;

/// GPT-2's table: V tokens, T positions, D width, L layers.
class State {
  public:
    State() {
        constexpr int64_t V = 50257, T = 1024, D = 768, L = 12;
        for (const std::string prefix : {"model.", "optimizer.m.model.", "optimizer.v.model."}) {
            add(prefix + "embedding.weight", {V, D});
            add(prefix + "positions.weight", {T, D});
            for (int64_t layer = 0; layer < L; ++layer) {
                const std::string block = fmt::format("{}blocks.{}.", prefix, layer);
                for (const char* norm : {"norm1", "norm2"}) {
                    add(block + norm + ".weight", {D});
                    add(block + norm + ".bias", {D});
                }
                add_linear(block + "attention.qkv", 3 * D, D);
                add_linear(block + "attention.output", D, D);
                add_linear(block + "mlp.up", 4 * D, D);
                add_linear(block + "mlp.down", D, 4 * D);
            }
            add(prefix + "norm.weight", {D});
            add(prefix + "norm.bias", {D});
        }
    }
    int64_t bytes() const { return bytes_; }
    std::vector<core::StateTensor> tensors;

  private:
    void add_linear(const std::string& name, int64_t out, int64_t in) {
        add(name + ".weight", {out, in});
        add(name + ".bias", {out});
    }
    void add(const std::string& name, const Shape& shape) {
        auto& buffer = buffers_.emplace_back(static_cast<size_t>(shape.elements()));
        for (size_t i = 0; i < buffer.size(); ++i)
            buffer[i] = static_cast<float>((i * 2654435761u) % 1000003u) * 1e-6f;
        tensors.push_back({name, DType::f32, core::Shard::whole(shape), buffer.data()});
        bytes_ += shape.elements() * 4;
    }
    std::vector<std::vector<float>> buffers_;
    int64_t bytes_ = 0;
};

State& state() {
    static State instance;
    return instance;
}

std::string root() {
    return (std::filesystem::temp_directory_path() / "plinth-bench-checkpoint").string();
}

SaveRequest request(int64_t step) {
    return {root(), "00112233445566778899aabbccddeeff", step, {}, state().tensors};
}

void clear() {
    std::filesystem::remove_all(root());
}

/// From the call to the commit, all bytes on the disk.
void save(benchmark::State& loop) {
    core::SelfRanks ranks;
    Writer writer(core::io::posix(), ranks, {.threads = static_cast<int>(loop.range(0))});
    state();
    for (auto _ : loop) {
        loop.PauseTiming();
        clear();
        sync();
        loop.ResumeTiming();
        const SaveOutcome outcome = writer.save(request(1));
        CHECK(outcome.committed, "{}", outcome.message);
        loop.counters["cpu_s"] = outcome.background_cpu_seconds;
    }
    loop.SetBytesProcessed(loop.iterations() * state().bytes());
}
BENCHMARK(save)->Arg(1)->Arg(2)->UseRealTime()->Unit(benchmark::kMillisecond)->Iterations(3);

/// What the training thread waits for (`begin`) and how long the tensors must stay as they are.
void save_asynchronous(benchmark::State& loop) {
    core::SelfRanks ranks;
    Writer writer(core::io::posix(), ranks, {});
    state();
    double begin = 0;
    for (auto _ : loop) {
        loop.PauseTiming();
        clear();
        sync();
        loop.ResumeTiming();
        const auto start = std::chrono::steady_clock::now();
        writer.begin(request(1));
        begin = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
        const SaveOutcome outcome = writer.finish();
        CHECK(outcome.committed, "{}", outcome.message);
        loop.counters["copy_s"] = outcome.copy_seconds;
        loop.counters["cpu_s"] = outcome.background_cpu_seconds;
    }
    loop.counters["begin_s"] = begin;
    loop.SetBytesProcessed(loop.iterations() * state().bytes());
}
BENCHMARK(save_asynchronous)->UseRealTime()->Unit(benchmark::kMillisecond)->Iterations(3);

/// Lets the page cache forget the files of a folder.
void evict(const std::string& folder) {
    sync();
    for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
        if (!entry.is_regular_file()) continue;
        const int file = open(entry.path().c_str(), O_RDONLY);
        CHECK(file >= 0, "open {}", entry.path().string());
        posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
        close(file);
    }
}

/// Argument 0: threads; 1: whether the files are in the page cache.
void restore(benchmark::State& loop) {
    core::SelfRanks ranks;
    clear();
    Writer writer(core::io::posix(), ranks, {});
    const SaveOutcome outcome = writer.save(request(1));
    CHECK(outcome.committed, "{}", outcome.message);
    const LoadOptions options{.threads = static_cast<int>(loop.range(0))};
    for (auto _ : loop) {
        loop.PauseTiming();
        if (loop.range(1) == 0) evict(root());
        loop.ResumeTiming();
        const Warn warn = [](const std::string& line) { CHECK(false, "{}", line); };
        CHECK(restore_newest(core::io::posix(), ranks, root(), state().tensors, warn, options),
              "no checkpoint");
    }
    loop.SetBytesProcessed(loop.iterations() * state().bytes());
    clear();
}
BENCHMARK(restore)
    ->ArgNames({"threads", "cached"})
    ->ArgsProduct({{1, 2, 4}, {0, 1}})
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond)
    ->Iterations(3);

}  // namespace
