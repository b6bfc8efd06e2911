// SPDX-License-Identifier: Apache-2.0
// The loader from the page cache: tokens a second of one reading thread, and the time from nothing
// to the first micro-batch at sample 10^9.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "core/data/dataset.h"
#include "core/data/loader.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tiny_dataset.h"

namespace plinth::core::data {
namespace {

/// 64 M tokens in four shards, documents of 50 to 2,000 tokens, written once.
const std::string& folder() {
    static const test::TemporaryFolder temporary;
    static const bool written = [] {
        uint64_t state = 1;
        const auto random = [&] {
            return state = state * 6364136223846793005ull + 1442695040888963407ull;
        };
        std::vector<std::vector<std::vector<int32_t>>> shards(4);
        for (auto& shard : shards)
            for (size_t tokens = 0; tokens < 16'000'000;) {
                std::vector<int32_t> document(50 + (random() >> 33) % 1951);
                for (int32_t& token : document)
                    token = static_cast<int32_t>((random() >> 33) % 50257);
                tokens += document.size();
                shard.push_back(std::move(document));
            }
        test::write_dataset(temporary.path(), "text", 50257, shards);
        return true;
    }();
    benchmark::DoNotOptimize(written);
    return temporary.path();
}

std::shared_ptr<const Sampler> sampler_of(const Dataset& dataset, int64_t window) {
    return std::make_shared<Sampler>(start_sampling(1, window, {dataset.describe()}));
}

NextRequest batches_from(int64_t first, int64_t samples) {
    return [=]() mutable -> std::optional<MicroBatchRequest> {
        const MicroBatchRequest request{.first = first, .samples = samples};
        first += samples;
        return request;
    };
}

/// Arguments: window, document mask. Wall time of the consumer, one reader at work.
void tokens_per_second(benchmark::State& state) {
    const auto dataset = Dataset::open(io::posix(), folder(), "train");
    const int64_t window = state.range(0);
    const int64_t samples = std::max<int64_t>(1, 8192 / window);
    Loader loader({dataset}, sampler_of(*dataset, window),
                  {.threads = 1, .depth = 8, .document_mask = state.range(1) != 0},
                  batches_from(0, samples));
    for (auto _ : state)
        benchmark::DoNotOptimize(loader.next()->inputs.data());
    state.SetItemsProcessed(state.iterations() * samples * window);
}
BENCHMARK(tokens_per_second)
    ->ArgNames({"window", "mask"})
    ->Args({64, 0})
    ->Args({256, 0})
    ->Args({1024, 0})
    ->Args({4096, 0})
    ->Args({1024, 1})
    ->Args({4096, 1})
    ->UseRealTime();

/// The reader's own work, without hand-over between threads: seconds of one core.
void fill_tokens(benchmark::State& state) {
    const auto dataset = Dataset::open(io::posix(), folder(), "train");
    const auto window = static_cast<size_t>(state.range(0));
    const auto sampler = sampler_of(*dataset, state.range(0));
    std::vector<int32_t> inputs(window), targets(window), positions(window), ids(window);
    int64_t sample = 0;
    for (auto _ : state)
        dataset->fill(sampler->locate(sample++), state.range(1) != 0,
                      {inputs, targets, positions, ids});
    state.SetItemsProcessed(state.iterations() * state.range(0));
}
BENCHMARK(fill_tokens)
    ->ArgNames({"window", "mask"})
    ->Args({64, 0})
    ->Args({1024, 0})
    ->Args({4096, 0})
    ->Args({1024, 1})
    ->Args({4096, 1});

/// Opening the data set, building the sampler, starting the loader, the first micro-batch.
void first_batch_at_sample_billion(benchmark::State& state) {
    folder();
    for (auto _ : state) {
        const auto dataset = Dataset::open(io::posix(), folder(), "train");
        Loader loader({dataset}, sampler_of(*dataset, 1024), {}, batches_from(1'000'000'000, 8));
        benchmark::DoNotOptimize(loader.next()->inputs.data());
    }
}
BENCHMARK(first_batch_at_sample_billion)->Unit(benchmark::kMillisecond)->UseRealTime();

/// A share table of many sources, and look-ups.
void locate_sample(benchmark::State& state) {
    std::vector<BlendSource> blend;
    for (int64_t s = 0; s < state.range(0); ++s)
        blend.push_back({.name = fmt::format("source-{}", s),
                         .weight = 1.0 + static_cast<double>(s % 7),
                         .units = 1'000'000'000 + s});
    const Sampler sampler(start_sampling(1, 2048, blend));
    int64_t sample = 1'000'000'000;
    for (auto _ : state)
        benchmark::DoNotOptimize(sampler.locate(sample++));
}
BENCHMARK(locate_sample)->Arg(1)->Arg(100);

}  // namespace
}  // namespace plinth::core::data
