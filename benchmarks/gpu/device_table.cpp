// SPDX-License-Identifier: Apache-2.0
#include "benchmarks/gpu/device_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <map>
#include <memory>
#include <numeric>

#include "kernels/runtime/device_module.h"
#include "kernels/runtime/dtype.h"
#include "kernels/runtime/philox.h"

namespace plinth::test {

namespace {

double now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch())
        .count();
}

/// Values of one dtype that tensors are tiled with: 2^20 of them, not a period that a kernel's
/// blocks share.
template <typename T>
const std::vector<T>& pattern(float scale) {
    static std::map<float, std::vector<T>> made;
    std::vector<T>& values = made[scale];
    if (!values.empty()) return values;
    values.resize((size_t{1} << 20) - 61);
    const RandomKey key(11, "benchmark");
    for (size_t i = 0; i < values.size(); ++i)
        values[i] = static_cast<T>((static_cast<float>(key.words(i)[0]) * 0x1p-31f - 1.0f) * scale);
    return values;
}

/// Seconds of one call: enough calls to last `milliseconds`, five times, the median.
double seconds_of(const std::vector<KernelCall>& calls, Stream& stream,
                  const TableOptions& options) {
    const auto timed = [&](int64_t repeats) {
        stream.synchronize();
        const double began = now();
        for (int64_t i = 0; i < repeats; ++i)
            calls[static_cast<size_t>(i) % calls.size()](stream);
        stream.synchronize();
        return (now() - began) / static_cast<double>(repeats);
    };
    if (options.only_once) return timed(1);
    timed(static_cast<int64_t>(calls.size()) + 1);  // algorithms are chosen, memory is touched
    const double once = timed(3);
    const auto repeats = std::clamp(static_cast<int64_t>(options.milliseconds * 1e-3 / once),
                                    int64_t{2}, int64_t{20000});
    std::vector<double> times;
    for (int i = 0; i < 5; ++i)
        times.push_back(timed(repeats));
    std::nth_element(times.begin(), times.begin() + 2, times.end());
    return times[2];
}

double measure(const TableRow& row, Stream& stream, MemorySource& memory,
               const TableOptions& options) {
    std::vector<std::unique_ptr<DeviceTensors>> sets;
    std::vector<KernelCall> calls;
    size_t bytes = 0;
    const size_t most = options.only_once ? 1 : 16;
    while (calls.empty() || (bytes < options.rotated_bytes && calls.size() < most)) {
        sets.push_back(std::make_unique<DeviceTensors>(stream, memory));
        calls.push_back(row.prepare(*sets.back()));
        bytes += sets.back()->bytes();
    }
    return seconds_of(calls, stream, options);
}

struct Ceilings {
    double copy = 0.0;     ///< bytes/s
    double product = 0.0;  ///< FLOP/s
};

void print_line(const TableRow& row, double seconds, Ceilings& ceilings) {
    const double bytes = row.work.bytes / seconds, flops = row.work.flops / seconds;
    if (row.name == "copy") ceilings.copy = bytes;
    if (row.name == "matmul 8192") ceilings.product = flops;
    const auto share = [](double rate, double of) {
        return of > 0.0 ? fmt::format("{:5.1f} %", 1e2 * rate / of) : std::string("-");
    };
    if (row.work.flops > 0.0)
        fmt::print("| {:26} | {:22} | {:9.1f} | {:8.1f} TFLOP/s | {:>7} |\n", row.name, row.shape,
                   1e6 * seconds, 1e-12 * flops, share(flops, ceilings.product));
    else
        fmt::print("| {:26} | {:22} | {:9.1f} | {:8.0f} GB/s    | {:>7} |\n", row.name, row.shape,
                   1e6 * seconds, 1e-9 * bytes, share(bytes, ceilings.copy));
    std::fflush(stdout);
}

}  // namespace

DeviceTensors::~DeviceTensors() {
    for (const Block& block : blocks_)
        memory_.free(block.data, block.bytes);
}

View DeviceTensors::take(const Shape& shape, DType dtype) {
    const size_t bytes = static_cast<size_t>(shape.elements()) * size_of(dtype);
    blocks_.push_back({memory_.allocate(bytes), bytes});
    bytes_ += bytes;
    return {blocks_.back().data, dtype, shape, memory_.device()};
}

View DeviceTensors::upload(const Shape& shape, DType dtype, const void* data) {
    const View view = take(shape, dtype);
    copy_bytes(view.data, memory_.device(), data, {}, view.bytes());
    return view;
}

View DeviceTensors::random(const Shape& shape, DType dtype, float scale) {
    const View view = take(shape, dtype);
    const auto fill = [&](const auto& values) {
        const size_t unit = values.size() * sizeof(values[0]);
        auto* to = static_cast<std::byte*>(view.data);
        const size_t first = std::min(unit, view.bytes());
        copy_bytes(to, memory_.device(), values.data(), {}, first);
        for (size_t done = first; done < view.bytes();) {  // each copy doubles what is there
            const size_t next = std::min(done, view.bytes() - done);
            stream_.copy(to + done, to, next);
            done += next;
        }
        stream_.synchronize();
    };
    if (dtype == DType::bf16)
        fill(pattern<BFloat16>(scale));
    else
        fill(pattern<float>(scale));
    return view;
}

View DeviceTensors::zeros(const Shape& shape, DType dtype) {
    const View view = take(shape, dtype);
    stream_.set_zero(view.data, view.bytes());
    return view;
}

View DeviceTensors::random_ids(const Shape& shape, int64_t below) {
    std::vector<int32_t> ids(static_cast<size_t>(shape.elements()));
    const RandomKey key(12, "ids");
    for (size_t i = 0; i < ids.size(); ++i)
        ids[i] = static_cast<int32_t>(key.words(i)[0] % static_cast<uint64_t>(below));
    return upload(shape, DType::i32, ids.data());
}

View DeviceTensors::document_ids(const Shape& shape, int64_t length) {
    std::vector<int32_t> ids(static_cast<size_t>(shape.elements()));
    for (size_t i = 0; i < ids.size(); ++i)
        ids[i] = static_cast<int32_t>(static_cast<int64_t>(i) / length);
    return upload(shape, DType::i32, ids.data());
}

View DeviceTensors::counting_ids(const Shape& shape, int64_t below) {
    std::vector<int32_t> ids(static_cast<size_t>(shape.elements()));
    for (size_t i = 0; i < ids.size(); ++i)
        ids[i] = static_cast<int32_t>(i % static_cast<size_t>(below));
    return upload(shape, DType::i32, ids.data());
}

View DeviceTensors::last_places(int64_t samples, int64_t tokens) {
    const std::vector<int32_t> places(static_cast<size_t>(samples),
                                      static_cast<int32_t>(tokens - 1));
    return upload({samples}, DType::i32, places.data());
}

View DeviceTensors::last_labels(const Shape& shape) {
    std::vector<int32_t> ids(static_cast<size_t>(shape.elements()), -100);
    for (auto i = static_cast<size_t>(shape[1]) - 1; i < ids.size();
         i += static_cast<size_t>(shape[1]))
        ids[i] = 1;
    return upload(shape, DType::i32, ids.data());
}

View DeviceTensors::sample_numbers(int64_t count) {
    std::vector<int64_t> numbers(static_cast<size_t>(count));
    std::iota(numbers.begin(), numbers.end(), 0);
    return upload({count}, DType::i64, numbers.data());
}

int print_table(const std::vector<TableRow>& rows, const TableOptions& options) {
    DeviceModule& module = cuda_module();
    const DeviceInfo info = module.info(0);
    fmt::print("{}, {} multiprocessors, {:.1f} GiB; {}\n\n", info.name, info.multiprocessors,
               static_cast<double>(info.memory_bytes) / (1 << 30), info.versions);
    fmt::print("| {:26} | {:22} | {:>9} | {:16} | {:7} |\n|---|---|---|---|---|\n", "kernel",
               "shape", "us", "rate", "of best");
    Stream stream(Device{DeviceType::cuda, 0}, 1);
    Ceilings ceilings;
    int failed = 0, ran = 0;
    for (const TableRow& row : rows) {
        const bool is_ceiling = row.name == "copy" || row.name == "matmul 8192";
        if (!is_ceiling && row.name.find(options.filter) == std::string::npos) continue;
        try {
            print_line(row, measure(row, stream, module.memory(0), options), ceilings);
            ++ran;
        } catch (const std::exception& error) {
            if (!row.may_be_refused) ++failed;
            fmt::print("| {:26} | {:22} | {}: {}\n", row.name, row.shape,
                       row.may_be_refused ? "not done" : "FAILED", error.what());
            std::fflush(stdout);
        }
    }
    fmt::print("\n{} rows ran\n", ran);
    return failed;
}

}  // namespace plinth::test
